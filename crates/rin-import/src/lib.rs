//! Foreign model formats become .rin.
