//! What a call comes to, as a number: the status of `rin.h`, whose comments these are.

/// What a call came to. Below 0 it failed: the message is in rin_last_error().
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RinStatus {
    /// It is done.
    Ok = 0,
    /// The system refused something that is needed to begin: threads, memory for a handle.
    Init = -1,
    /// The model does not fit the memory, or the text does not fit the cache that was planned.
    Memory = -2,
    /// The model cannot be read: it is missing, damaged or contradicts itself.
    Weights = -3,
    /// Computing failed.
    Inference = -4,
    /// No model is loaded.
    NotInitialized = -5,
    /// An argument is out of its range: a null pointer, text that is no UTF-8, an unknown token, a number out of bounds.
    InvalidInput = -6,
    /// This version, or this model, does not do that.
    Unsupported = -7,
    /// The field struct_size of a struct was not set to its size.
    StructSize = -8,
    /// The context was destroyed, or never existed.
    Closed = -9,
    /// A callback called back into the context that called it.
    Busy = -10,
    /// A callback asked to stop. What was computed until then is in the result.
    Cancelled = -11,
    /// Energy is not known, or a power budget needs a sensor. Nothing else failed.
    Unmeasured = -12,
    /// A fault in RIN itself. The model of the context is no longer loaded; the program can go on.
    Panic = -13,
}
