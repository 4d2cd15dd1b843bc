//! Trains as a configuration file says: `train CONFIG [--resume] [--overwrite] [--plot]`.
#![expect(clippy::print_stdout, reason = "a program for the command line")]

use rin_train::{Event, Outcome, RunOptions, run};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let flag = |name: &str| arguments.iter().any(|argument| argument == name);
    let config = arguments.iter().find(|argument| !argument.starts_with("--")).ok_or("which configuration?")?;
    let options = RunOptions { resume: flag("--resume"), overwrite: flag("--overwrite"), plot: flag("--plot") };
    let start = Instant::now();
    let mut progress = |event: &Event<'_>| {
        let seconds = start.elapsed().as_secs_f64();
        match event {
            Event::Step { step, loss, tokens_per_second, seconds_left, .. } if step % 10 == 0 || *step < 4 => {
                println!(
                    "{seconds:8.1} s  step {step}  loss {loss:.4}  {tokens_per_second:.0} tokens/s  {seconds_left:.0} s left"
                );
            }
            Event::Evaluated { step, evaluation, best } => {
                let [low, high] = evaluation.interval;
                let nats = evaluation.nats_per_char;
                println!(
                    "{seconds:8.1} s  step {step}  validation {nats:.4} nats/char [{low:.4}, {high:.4}] best {best}"
                );
            }
            Event::Started { .. } | Event::Note(_) => println!("{seconds:8.1} s  {event:?}"),
            _ => {}
        }
    };
    match run(&PathBuf::from(config), options, &mut progress, Arc::new(AtomicBool::new(false)))? {
        Outcome::Finished(summary) => println!("{}", serde_json::to_string_pretty(&*summary)?),
        Outcome::Cancelled { step, checkpoint } => println!("stopped after step {step}: {}", checkpoint.display()),
    }
    Ok(())
}
