//! Measures the link between rank 0 and rank 1, as `rin plan-cluster` wants it: half of the time there and back of one row of
//! 4 KiB, and the rate of 4 MiB, through what stages send each other.
//!
//!     mpirun -n 2 --host a,b cargo run --release -p rin-cluster --features mpi --example link
#![expect(clippy::print_stdout, reason = "a program that shows something")]

#[cfg(feature = "mpi")]
fn main() -> Result<(), String> {
    use rin_cluster::Tag;
    use std::time::Instant;

    const ROUNDS: usize = 2000;
    let process = rin_cluster::mpi::join()?.ok_or("start it with mpirun -n 2")?;
    let world = process.world();
    if world.size() != 2 {
        return Err("it takes two ranks".to_owned());
    }
    let other = 1 - world.rank();
    let mut figures = Vec::new();
    for (bytes, rounds) in [(4 << 10, ROUNDS), (4 << 20, ROUNDS / 20)] {
        let mut message = vec![0_u8; bytes];
        let receive = |message: &mut [u8]| -> Result<(), String> {
            while world.arrived(Some(other), Tag::Ring)?.is_none() {
                std::thread::yield_now();
            }
            world.take(other, Tag::Ring, message)
        };
        let mut times = Vec::with_capacity(rounds);
        for _ in 0..rounds {
            let start = Instant::now();
            if world.rank() == 0 {
                world.send(other, Tag::Ring, &message)?;
                receive(&mut message)?;
            } else {
                receive(&mut message)?;
                world.send(other, Tag::Ring, &message)?;
            }
            times.push(start.elapsed().as_secs_f64() / 2.0);
        }
        times.sort_by(f64::total_cmp);
        figures.push(times.get(rounds / 2).copied().unwrap_or(f64::NAN));
    }
    if let ([small, large], 0) = (&figures[..], world.rank()) {
        println!("[link]\nlatency_us = {:.2}\ngbit_per_s = {:.2}", small * 1e6, f64::from(4 << 20) * 8.0 / large / 1e9);
    }
    Ok(())
}

#[cfg(not(feature = "mpi"))]
fn main() {
    println!("build it with --features mpi");
}
