//! Where values come from: flags, variables, `rin.toml`, the user's file.

use crate::program::{Place, json, output, stderr, stdout};

#[test]
fn a_flag_counts_before_a_variable_before_the_folder_before_the_user() {
    let place = Place::new();
    let seed = |set: &dyn Fn(&mut std::process::Command)| {
        let mut command = place.tiny(&["-p", "a", "-n", "1", "--json"]);
        set(&mut command);
        json(&output(command))["seed"].as_u64().unwrap()
    };
    assert_eq!(seed(&|_| {}), 0);
    place.file(".config/rin/config.toml", "seed = 1\n[run]\ntop-k = 5");
    assert_eq!(seed(&|_| {}), 1);
    place.file("elsewhere/rin/config.toml", "[run]\nseed = 2");
    let elsewhere = place.path("elsewhere");
    assert_eq!(
        seed(&|command| {
            command.env("XDG_CONFIG_HOME", &elsewhere);
        }),
        2
    );
    place.file("rin.toml", "seed = 3");
    assert_eq!(seed(&|_| {}), 3);
    place.file("rin.toml", "seed = 3\n[run]\nseed = 4");
    assert_eq!(seed(&|_| {}), 4);
    assert_eq!(
        seed(&|command| {
            command.env("RIN_SEED", "5");
        }),
        5
    );
    assert_eq!(
        seed(&|command| {
            command.env("RIN_SEED", "5").args(["--seed", "6"]);
        }),
        6
    );
}

#[test]
fn switches_lists_and_tiers_have_variables_and_keys_too() {
    let place = Place::new();
    let mut command = place.tiny(&["-p", "a", "-n", "3"]);
    command.env("RIN_JSON", "1").env("RIN_TIER", "scalar").env("RIN_IGNORE_EOS", "yes");
    let object = json(&output(command));
    assert_eq!((&object["tier"], &object["generated_tokens"]), (&"scalar".into(), &3.into()));

    place.file("rin.toml", "json = true\nlogit-bias = [\"70=900\", \"71=1000\"]\nignore-eos = true\ntemp = 0.0");
    let object = json(&output(place.tiny(&["-p", "a", "-n", "2"])));
    assert_eq!(object["tokens"], serde_json::json!([71, 71]));
    let mut command = place.tiny(&["-p", "a", "-n", "0"]);
    command.env("RIN_JSON", "false");
    assert_eq!(stdout(&output(command)), "");
}

#[test]
fn of_a_prompt_and_ids_the_stronger_source_counts() {
    let place = Place::new();
    place.file("rin.toml", "[run]\nprompt = \"hello\"");
    let prompt_tokens = |set: &dyn Fn(&mut std::process::Command)| {
        let mut command = place.tiny(&["-n", "0", "--json"]);
        set(&mut command);
        json(&output(command))["prompt_tokens"].as_u64().unwrap()
    };
    let from_file = prompt_tokens(&|_| {});
    assert!(from_file > 1);
    assert_eq!(
        prompt_tokens(&|command| {
            command.args(["--tokens", "1"]);
        }),
        1
    );
    assert_eq!(
        prompt_tokens(&|command| {
            command.env("RIN_TOKENS", "1");
        }),
        1
    );
    assert_eq!(
        prompt_tokens(&|command| {
            command.env("RIN_TOKENS", "1").args(["-p", "hello"]);
        }),
        from_file
    );
}

#[test]
fn bad_configuration_names_file_and_key() {
    let place = Place::new();
    for (text, parts) in [
        ("sead = 1", ["rin.toml", "`sead`"]),
        ("[run]\nplan = true", ["rin.toml", "`run.plan`"]),
        ("ctx = \"long\"", ["rin.toml", "`ctx`"]),
        ("ctx = ", ["rin.toml", "line 1"]),
    ] {
        place.file("rin.toml", text);
        let failed = output(place.tiny(&["-p", "a"]));
        assert_eq!(failed.status.code(), Some(2), "{text}");
        for part in parts {
            assert!(stderr(&failed).contains(part), "{text}: {}", stderr(&failed));
        }
    }
    place.file("rin.toml", [0xff, 0xfe]);
    assert_eq!(output(place.tiny(&["-p", "a"])).status.code(), Some(2));
}

#[test]
fn a_bad_variable_is_named() {
    let place = Place::new();
    let mut command = place.tiny(&["-p", "a"]);
    command.env("RIN_CTX", "long");
    let failed = output(command);
    assert_eq!(failed.status.code(), Some(2));
    assert!(stderr(&failed).contains("RIN_CTX"), "{}", stderr(&failed));
}

#[test]
fn help_lists_the_flags_of_the_contract() {
    let place = Place::new();
    let help = stdout(&output(place.rin(&["run", "--help"])));
    for flag in "--prompt --max-tokens --temp --top-k --top-p --min-p --typical-p --repeat-penalty --presence-penalty \
        --frequency-penalty --logit-bias --seed --stop --ignore-eos --logits --tokens --no-special --json --quiet \
        --threads --affinity --tier --ctx --batch --kv-type --mlock --huge-pages --mode --memory-limit \
        --require-energy RIN_SOME_NAME rin.toml"
        .split_whitespace()
    {
        assert!(help.contains(flag), "{flag}");
    }
    assert_eq!(stdout(&output(place.rin(&["--version"]))), concat!("rin ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn completions_know_flags_and_values() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = stdout(&output(place.rin(&["completions", shell])));
        let lists_values = matches!(shell, "bash" | "zsh" | "fish");
        assert!(script.contains("avx512vnni") == lists_values, "{shell}");
        assert!(script.contains("memory-limit"), "{shell}");
    }
    let object = json(&output(place.rin(&["completions", "bash", "--json"])));
    assert_eq!(object["shell"], "bash");
    assert!(object["script"].as_str().unwrap().contains("--memory-limit"));
    assert_eq!(output(place.rin(&["completions", "tcsh"])).status.code(), Some(2));
}
