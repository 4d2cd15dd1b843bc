//! `rin verify`, and what changes how a run is computed without changing what comes out.

use serde_json::Value;

use crate::failures::fails;
use crate::program::{Place, TINY, conformance, ids, json, keys, output, stderr, stdout};

#[test]
fn a_sound_machine_has_the_bits_of_the_definition_in_every_case() {
    let place = Place::new();
    let model = conformance(TINY);
    let found = json(&output(place.on("verify", &model, &["--json", "-q", "--threads", "2", "--trace"])));
    let fields = ["cases", "equal", "digest", "axes", "mismatches"];
    assert_eq!(keys(&found)[..5], fields);
    assert_eq!(keys(&found["axes"]), ["tiers", "threads", "batch", "chunk", "cache"]);
    assert_eq!(found["axes"]["threads"], Value::from(vec![2]));
    let tiers = found["axes"]["tiers"].as_array().unwrap();
    assert_eq!(tiers[0], "scalar");
    // One number of threads, 5 batches, 2 states of the cache, one chunk for each.
    assert_eq!(found["cases"], tiers.len() * 5 * 2);
    assert_eq!((&found["equal"], &found["mismatches"]), (&found["cases"], &Value::from(Vec::<u8>::new())));
    let goldens = std::fs::read(conformance("digests.json")).unwrap();
    let goldens: Value = serde_json::from_slice(&goldens).unwrap();
    assert_eq!(found["digest"], goldens["models"][TINY]);
    assert_eq!(found["trace"][0]["operation"], "embedding");

    let text = output(place.on("verify", &model, &["--threads", "1", "--tier", "scalar", "-p", "Once", "-n", "3"]));
    for part in ["tiers       scalar", "equal       10 of 10 cases, each over 4 steps", "digest      sha256:"] {
        assert!(stdout(&text).contains(part), "no {part}: {}", stdout(&text));
    }
}

#[test]
fn stages_and_shares_have_the_bits_of_one_process() {
    let place = Place::new();
    // Packed, as its panels are shared where they lie.
    assert_eq!(output(place.on("import", &conformance(TINY), &["-o", "tiny.rin"])).status.code(), Some(0));
    let text = ["--tokens", "5,6,7,8,9,10,11,12", "-n", "2", "--threads", "1"];
    let flags = [&text[..], &["--ranks", "2", "--tp", "1,2", "--json", "-q"]].concat();
    for model in [conformance(TINY), place.path("tiny.rin")] {
        let found = json(&output(place.on("verify", &model, &flags)));
        let ranks = found["ranks"].as_array().unwrap();
        let cuts: Vec<_> = ranks.iter().map(|found| (found["ranks"].as_u64().unwrap(), &found["cut"])).collect();
        assert_eq!(cuts, [(2, &"layers".into()), (1, &"rows".into()), (2, &"rows".into())]);
        for of in ranks {
            assert_eq!((&of["digest"], &of["equal"]), (&found["digest"], &found["cases"]));
        }
    }
    fails(
        place.on("verify", &conformance(TINY), &["--tp", "5"]),
        2,
        &["at most 4: each rank has key heads of its own"],
    );
    // Heads of eight rows: a share would begin within a panel of the file.
    fails(
        place.on("inspect", &place.path("tiny.rin"), &["--plan", "--tp", "4"]),
        2,
        &["panels of 16", "must be fewer"],
    );
    fails(place.on("run", &conformance(TINY), &["-p", "x", "--tp", "2"]), 2, &["start more of them, as mpirun"]);
}

#[test]
fn what_cannot_be_verified_is_named() {
    let place = Place::new();
    let model = conformance(TINY);
    fails(place.on("verify", &model, &["--tokens", "1,288"]), 2, &["288"]);
    fails(place.on("verify", &model, &["--tier", "sse9"]), 2, &["sse9", "scalar"]);
    fails(place.on("verify", &model, &["--threads", "0"]), 2, &["--threads"]);
    fails(
        place.on("verify", &model, &["--tier", "scalar", "--require-tiers", "scalar,avx2"]),
        1,
        &["avx2 is required"],
    );
    fails(place.on("verify", &place.path("none.gguf"), &[]), 1, &["none.gguf"]);
}

#[test]
fn a_saved_text_goes_on_as_if_it_had_not_ended() {
    let place = Place::new();
    let with =
        |more: &[&str]| json(&output(place.tiny(&[&["--json", "--temp", "0.8", "--ignore-eos"], more].concat())));
    let whole = with(&["-p", "Once upon a time", "-n", "30"]);
    let first = with(&["-p", "Once upon a time", "-n", "11", "--save-state", "half.state"]);
    let second = with(&["--load-state", "half.state", "-n", "19", "--save-state", "half.state"]);
    assert_eq!([ids(&first["tokens"]), ids(&second["tokens"])].concat(), ids(&whole["tokens"]));
    assert_eq!(second["prompt_tokens"].as_u64().unwrap(), first["prompt_tokens"].as_u64().unwrap() + 11);
    // More text may follow; it begins no new text.
    let third = with(&["--load-state", "half.state", "-p", " and then", "-n", "1"]);
    assert!(third["prompt_tokens"].as_u64() > second["prompt_tokens"].as_u64().map(|n| n + 19));

    place.file("broken.state", "no state at all, but long enough");
    fails(place.tiny(&["--load-state", "broken.state"]), 1, &["broken.state", "does not begin with RINSTATE"]);
    fails(place.tiny(&["--load-state", "half.state", "--kv-type", "q8"]), 2, &["--kv-type", "f32", "q8"]);
    fails(place.tiny(&["-p", "a", "-n", "1", "--save-state", "no/folder.state"]), 2, &["no/folder.state"]);
}

#[test]
fn guesses_are_only_a_faster_way() {
    let place = Place::new();
    let model = conformance(TINY);
    let with = |more: &[&str]| {
        let common = ["--json", "--temp", "0", "--ignore-eos", "-n", "60", "-p", "one two one two one two one"];
        let found = json(&output(place.tiny(&[&common[..], more].concat())));
        (ids(&found["tokens"]), found["digest"].clone(), found["drafted_tokens"].as_u64().unwrap())
    };
    let (tokens, digest, guessed) = with(&[]);
    assert_eq!(guessed, 0);
    for more in [&["--lookup"][..], &["--draft", model.to_str().unwrap(), "--draft-max", "4"]] {
        let (same_tokens, same_digest, guessed) = with(more);
        assert_eq!((&same_tokens, &same_digest), (&tokens, &digest), "{more:?}");
        assert!(guessed > 0, "{more:?}");
    }
    fails(place.tiny(&["-p", "a", "--lookup", "--draft", "x.gguf"]), 2, &["--lookup and --draft exclude each other"]);
    fails(place.tiny(&["-p", "a", "--draft", "none.gguf"]), 1, &["none.gguf"]);
}

#[test]
fn a_full_context_ends_or_shifts() {
    let place = Place::new();
    let with = |more: &[&str]| {
        let common = ["-p", "Once upon a time", "--ctx", "32", "-n", "50", "--ignore-eos", "--json"];
        json(&output(place.tiny(&[&common[..], more].concat())))
    };
    let (ends, shifts) = (with(&[]), with(&["--context-shift", "--keep", "3"]));
    assert!(ends["generated_tokens"].as_u64().unwrap() < 32);
    assert_eq!(shifts["generated_tokens"], 50);
    let n = ids(&ends["tokens"]).len();
    assert_eq!(ids(&ends["tokens"]), ids(&shifts["tokens"])[..n], "the same up to there");
    assert_eq!(stderr(&output(place.tiny(&["-p", "a", "-n", "1"]))), "");
}
