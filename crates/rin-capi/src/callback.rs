//! Functions of the host that are called back.

use std::ffi::{c_char, c_void};
use std::ops::ControlFlow;

use rin_session::Hear;

use crate::types::RinCallback;

/// A function of the host, what it wants to be called with, and the text with a zero after it.
#[derive(Debug)]
pub(crate) struct Callback {
    function: RinCallback,
    user: *mut c_void,
    every_step: bool,
    line: Vec<u8>,
}

impl Callback {
    /// `every_step`: it is called before each step too, with empty text.
    ///
    /// # Safety
    /// The function may be called with `user`, as `RinCallback` says, until the call that it was given to returns.
    pub(crate) unsafe fn new(function: RinCallback, user: *mut c_void, every_step: bool) -> Self {
        Self { function, user, every_step, line: Vec::new() }
    }

    /// Calls it; whether to go on.
    pub(crate) fn call(&mut self, text: &str) -> bool {
        let Some(function) = self.function else { return true };
        self.line.clear();
        self.line.extend_from_slice(text.as_bytes());
        self.line.push(0);
        let (line, user) = (self.line.as_ptr().cast::<c_char>(), self.user);
        // SAFETY: who made the callback allows this; the line lives until it is changed by the next call.
        let answer = unsafe { function(line, text.len(), user) };
        answer == 0
    }
}

impl Hear for Callback {
    fn text(&mut self, text: &str) -> ControlFlow<()> {
        if self.call(text) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    fn cancelled(&mut self) -> bool {
        self.every_step && !self.call("")
    }
}
