//! Model files, sound and hostile, through the public surface of `rin-model`.

#[cfg(test)]
mod counting;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod hostile_cases;
#[cfg(test)]
mod hugging_face;
#[cfg(test)]
mod network;
#[cfg(test)]
mod real_files;
#[cfg(test)]
mod rin;
#[cfg(test)]
mod split;
#[cfg(test)]
mod sweeps;
#[cfg(test)]
mod tiny;
