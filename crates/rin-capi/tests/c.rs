//! C programs: they compile without a warning, do what they say, and are told of everything that they do wrong, under
//! valgrind and AddressSanitizer too.
//!
//! What is missing on a machine is skipped with a line that begins with `SKIPPED:`; `RIN_REQUIRE_C=1` makes that a failure.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rin_engine::generate::{Request, Silent, generate};
use rin_engine::sampler::SamplingParams;
use rin_engine::tokenizer::{EncodeOptions, Tokenizer};
use rin_engine::{Engine, LoadOptions};
use rin_kernels::ops::attention::KvType;
use rin_model::ModelFile;
use rin_testkit::data::conformance;

const WARNINGS: [&str; 5] = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic"];
const MODEL: &str = "models/tiny-llama";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Whether a program is there; where it is not, that is told.
fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        assert!(std::env::var_os("RIN_REQUIRE_C").is_none_or(|one| one != "1"), "{program} is required");
        eprintln!("SKIPPED: what needs {program}, which is not here");
    }
    found
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{told}", output.status);
    output
}

/// The library as `scripts/install-librin` installs it, with programs beside it.
struct Prefix(PathBuf);

impl Prefix {
    /// For one test.
    fn new(test: &str) -> Self {
        let prefix = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("librin-{test}-{}", std::process::id()));
        // Cargo leaves the libraries beside the tests that use the crate.
        let here = std::env::current_exe().unwrap();
        let libraries = here.parent().unwrap();
        run(Command::new(repository().join("scripts/install-librin")).arg(&prefix).arg(libraries));
        Self(prefix)
    }

    /// What pkg-config says, or what it would say.
    fn flags(&self, more: &[&str]) -> Vec<String> {
        if has("pkg-config") {
            let mut command = Command::new("pkg-config");
            command.env("PKG_CONFIG_PATH", self.0.join("lib/pkgconfig")).args(["--cflags", "--libs", "rin"]).args(more);
            let flags = String::from_utf8(run(&mut command).stdout).unwrap();
            return flags.split_whitespace().map(str::to_owned).collect();
        }
        let prefix = self.0.display();
        [format!("-I{prefix}/include"), format!("-L{prefix}/lib"), "-lrin".to_owned()].into()
    }

    /// Compiles a program.
    fn compile(&self, source: &str, name: &str, more: &[&str]) -> PathBuf {
        let program = self.0.join(name);
        let mut command = Command::new("gcc");
        command.args(WARNINGS).args(["-O1", "-g"]).arg(repository().join(source)).arg("-o").arg(&program);
        run(command.args(more).args(self.flags(&[])).args(["-pthread", "-lm"]));
        program
    }

    /// A command that finds the library and no sensor.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("LD_LIBRARY_PATH", self.0.join("lib")).env("RIN_SYS_ROOT", self.0.join("no machine"));
        command
    }
}

impl Drop for Prefix {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// What the engine itself generates, with its digest.
fn expected(prompt: &str, n: usize, temp: f32) -> (String, String) {
    let file = ModelFile::open(&conformance(MODEL)).unwrap();
    let tokenizer = Tokenizer::of_model(&file).unwrap();
    let mut engine = Engine::load(file, &LoadOptions { threads: Some(1), ..LoadOptions::default() }, |_| {}).unwrap();
    let prompt = tokenizer.encode(prompt, EncodeOptions { add_special: true, parse_special: false }).unwrap();
    let sampling = SamplingParams { temp, ..SamplingParams::default() };
    let request = Request { prompt, max_tokens: Some(n), sampling, ..Request::default() };
    let outcome = generate(&mut engine, Some(&tokenizer), &request, &mut Silent).unwrap();
    (outcome.text, outcome.digest.to_string())
}

#[test]
fn the_example_generates_what_the_engine_does() {
    if !has("gcc") {
        return;
    }
    let prefix = Prefix::new("example");
    let program = prefix.compile("examples/c/generate.c", "generate", &[]);
    for (prompt, n, temperature) in [("the", 20, "0"), ("a b", 12, "0.8"), ("ü", 5, "1.5")] {
        let mut command = prefix.command(&program);
        let output = run(command.arg(conformance(MODEL)).args([prompt, &n.to_string(), temperature]));
        let (text, digest) = expected(prompt, n, temperature.parse().unwrap());
        assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains(&digest) && told.contains("energy unmeasured") && told.contains("llama, "), "{told}");
    }
    // No argument is the wrong usage, a file that is not there a failure.
    assert_eq!(prefix.command(&program).output().unwrap().status.code(), Some(2));
    let failed = prefix.command(&program).arg("no such file").output().unwrap();
    let told = String::from_utf8_lossy(&failed.stderr);
    assert!(failed.status.code() == Some(1) && told.contains("no such file") && told.contains("(Io)"), "{told}");
}

#[test]
fn the_static_library_needs_what_the_pkg_config_file_says() {
    if !has("gcc") || !has("pkg-config") {
        return;
    }
    let prefix = Prefix::new("static");
    let program = prefix.0.join("generate-static");
    // A library that is named by its file is linked statically, the others as usual.
    let flags = prefix.flags(&["--static"]).into_iter().map(|flag| match flag.as_str() {
        "-lrin" => prefix.0.join("lib/librin.a").display().to_string(),
        _ => flag,
    });
    let mut command = Command::new("gcc");
    command.args(WARNINGS).arg(repository().join("examples/c/generate.c")).arg("-o").arg(&program);
    run(command.args(flags));
    let output = run(Command::new(&program).arg(conformance(MODEL)).args(["the", "20", "0"]));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected("the", 20, 0.0).0);
}

#[test]
fn misuse_has_a_status() {
    if !has("gcc") {
        return;
    }
    let prefix = Prefix::new("misuse");
    let program = prefix.compile("crates/rin-capi/tests/misuse.c", "misuse", &[]);
    run(prefix.command(program).arg(conformance(MODEL)));
}

/// The lines that `surface.c` has to write.
fn surface() -> String {
    let path = conformance(MODEL);
    let sampling = SamplingParams { temp: 0.7, top_k: 12, top_p: 0.9, ..SamplingParams::default() };
    let options = LoadOptions {
        threads: Some(2),
        ctx: Some(96),
        n_batch: 16,
        kv_type: Some(KvType::F16),
        text: Some(SamplingParams::default()),
        ..LoadOptions::default()
    };
    let file = ModelFile::open(&path).unwrap();
    let plan = options.plan(&file).unwrap();
    let c = plan.config.clone();
    let tokenizer = Tokenizer::of_model(&file).unwrap();
    let ids = tokenizer.encode("hello there", EncodeOptions { add_special: true, parse_special: false }).unwrap();
    let [n_params, bytes] = [file.n_params(), file.file_bytes()];
    let mut engine = Engine::load(file, &LoadOptions { threads: Some(1), ..LoadOptions::default() }, |_| {}).unwrap();
    let mut digest =
        |request: Request| generate(&mut engine, Some(&tokenizer), &request, &mut Silent).unwrap().digest.to_string();
    let prompt = vec![1, 5, 9];
    let inferred = digest(Request { prompt, max_tokens: Some(9), sampling: sampling.clone(), ..Request::default() });
    let sampling = SamplingParams { seed: 3, min_p: 0.01, repeat_penalty: 1.1, ..sampling };
    let (prompt, max_tokens) = (ids.clone(), Some(400));
    let generated = digest(Request { prompt, max_tokens, sampling, ignore_eos: true, ..Request::default() });
    let numbers: Vec<String> = ids.iter().map(ToString::to_string).collect();
    format!(
        "plan {} {}\ninfo {} {} {} {} {} {} {} {} {n_params} {bytes}\nids {}\ntext {}\ninfer {inferred}\ngenerate {generated}\n",
        plan.total_bytes(),
        plan.state_bytes,
        c.arch.name(),
        c.n_layers,
        c.dim,
        c.vocab,
        c.n_heads,
        c.n_kv_heads,
        c.ctx,
        c.ffn_dim,
        numbers.join(" "),
        tokenizer.decode(&ids),
    )
}

#[test]
fn every_function_gives_what_the_engine_has() {
    if !has("gcc") {
        return;
    }
    let prefix = Prefix::new("surface");
    let program = prefix.compile("crates/rin-capi/tests/surface.c", "surface", &["-frounding-math"]);
    let written = prefix.0.join("written.rin");
    let output = run(prefix.command(&program).arg(conformance(MODEL)).arg(&written));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), surface() + "energy unmeasured\n");
    // On a machine of one package that takes 50 W.
    let zone = prefix.0.join("machine/sys/devices/virtual/powercap/intel-rapl/intel-rapl:0");
    std::fs::create_dir_all(&zone).unwrap();
    for (name, text) in [("name", "package-0\n"), ("max_energy_range_uj", "262143328850\n"), ("energy_uj", "0\n")] {
        std::fs::write(zone.join(name), text).unwrap();
    }
    let counter = std::fs::File::options().write(true).open(zone.join("energy_uj")).unwrap();
    let mut child = prefix.command(&program);
    let machine = prefix.0.join("machine");
    let child = child.env("RIN_SYS_ROOT", machine).arg(conformance(MODEL)).arg(written).stdout(Stdio::piped()).spawn();
    let (mut child, begin) = (child.unwrap(), Instant::now());
    while child.try_wait().unwrap().is_none() {
        // In one call and of one length, so that no reader sees half of it.
        let value = format!("{:012}\n", begin.elapsed().as_micros() * 50);
        counter.write_all_at(value.as_bytes(), 0).unwrap();
        std::thread::sleep(Duration::from_micros(500));
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && String::from_utf8(output.stdout).unwrap().ends_with("energy measured\n"));
}

#[test]
fn nothing_leaks_and_nothing_is_read_that_is_not_there() {
    if !has("gcc") || !has("valgrind") {
        return;
    }
    let prefix = Prefix::new("valgrind");
    let valgrind = |program: &Path, arguments: &[&str]| {
        let mut command = prefix.command("valgrind");
        command.args(["--error-exitcode=99", "--leak-check=full", "--errors-for-leak-kinds=definite,indirect", "-q"]);
        run(command.arg(program).arg(conformance(MODEL)).args(arguments))
    };
    let program = prefix.compile("examples/c/generate.c", "generate-checked", &[]);
    let output = valgrind(&program, &["the", "6", "0"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected("the", 6, 0.0).0);
    valgrind(&prefix.compile("crates/rin-capi/tests/misuse.c", "misuse-checked", &[]), &[]);
}

#[test]
fn address_sanitizer_finds_nothing() {
    if !has("gcc") {
        return;
    }
    let prefix = Prefix::new("sanitizer");
    let sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
    let program = prefix.compile("crates/rin-capi/tests/misuse.c", "misuse-sanitized", &sanitizers);
    run(prefix.command(program).arg(conformance(MODEL)));
}

#[test]
fn the_header_is_c_plus_plus_too() {
    if !has("g++") {
        return;
    }
    let header = repository().join("crates/rin-capi/include/rin.h");
    let flags = ["-x", "c++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only"];
    run(Command::new("g++").args(flags).arg(header));
}
