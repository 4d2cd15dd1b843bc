//! What comes through pointers of a C program, checked as far as a pointer can be, and what goes back.

use std::ffi::{CStr, c_char, c_void};
use std::mem::{MaybeUninit, offset_of};

use rin_session::{Failure, RinStatus, invalid};

use crate::types::{
    RinGenerateOptions, RinImportOptions, RinLoadOptions, RinModelInfo, RinPlan, RinResult, RinTrainOptions,
};

/// A struct that says its own size, so that programs that were compiled against another version of `rin.h` are understood.
/// New fields come at the end.
///
/// # Safety
/// The type is `repr(C)`, begins with `struct_size: usize`, and whatever its bytes are they are a value of it.
pub(crate) unsafe trait Versioned: Copy {
    /// Size of its first version.
    const FIRST: usize;
    /// Its name in `rin.h`.
    const NAME: &'static str;
}

macro_rules! versioned {
    ($($type:ident: $first:expr),+ $(,)?) => {
        $(
            // SAFETY: `repr(C)` with `struct_size` first, and numbers and raw pointers only, as `types.rs` shows.
            unsafe impl Versioned for $type {
                const FIRST: usize = $first;
                const NAME: &'static str = stringify!($type);
            }
        )+
    };
}

// Up to the first field that was added later, where there is one.
versioned! {
    RinLoadOptions: offset_of!(RinLoadOptions, logits_rows),
    RinGenerateOptions: offset_of!(RinGenerateOptions, temperature),
    RinModelInfo: offset_of!(RinModelInfo, mode),
    RinResult: size_of::<RinResult>(),
    RinPlan: size_of::<RinPlan>(),
    RinImportOptions: size_of::<RinImportOptions>(),
    RinTrainOptions: size_of::<RinTrainOptions>(),
}

/// No version of a struct will be larger: what says so was never set.
const LARGEST: usize = 4096;

fn check<T>(pointer: *const T, what: &str) -> Result<(), Failure> {
    if pointer.is_null() {
        return Err(invalid(format!("{what} is a null pointer")));
    }
    if !pointer.is_aligned() {
        return Err(invalid(format!("{what} is not aligned to {} bytes", align_of::<T>())));
    }
    Ok(())
}

/// The text at a pointer.
///
/// # Safety
/// The pointer is null or points at a zero-terminated string that nobody changes during `'a`.
pub(crate) unsafe fn text<'a>(pointer: *const c_char, what: &str) -> Result<&'a str, Failure> {
    check(pointer, what)?;
    // SAFETY: not null, checked above; the caller guarantees the rest.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map_err(|error| invalid(format!("{what} is no UTF-8 text: byte {} is none", error.valid_up_to())))
}

/// The text at a pointer that may be null.
///
/// # Safety
/// As for [`text`].
pub(crate) unsafe fn text_or_none<'a>(pointer: *const c_char, what: &str) -> Result<Option<&'a str>, Failure> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the same contract.
    unsafe { text(pointer, what) }.map(Some)
}

/// `n` values at a pointer, which may be null where `n` is 0.
///
/// # Safety
/// The pointer is null, or points at `n` initialised values that nobody changes during `'a`.
pub(crate) unsafe fn values<'a, T>(pointer: *const T, n: usize, what: &str) -> Result<&'a [T], Failure> {
    if n == 0 {
        return Ok(&[]);
    }
    check(pointer, what)?;
    if n > isize::MAX.unsigned_abs() / size_of::<T>().max(1) {
        return Err(invalid(format!("{what} cannot have {n} elements")));
    }
    // SAFETY: not null, aligned, and no longer than a slice may be, all checked above; the caller guarantees the rest.
    Ok(unsafe { std::slice::from_raw_parts(pointer, n) })
}

/// Room for `n` values at a pointer, which may be null where `n` is 0.
///
/// # Safety
/// The pointer is null, or points at room for `n` values that nobody else uses during `'a`.
pub(crate) unsafe fn room<'a, T>(pointer: *mut T, n: usize, what: &str) -> Result<&'a mut [MaybeUninit<T>], Failure> {
    if n == 0 {
        return Ok(&mut []);
    }
    check(pointer, what)?;
    if n > isize::MAX.unsigned_abs() / size_of::<T>().max(1) {
        return Err(invalid(format!("{what} cannot have {n} elements")));
    }
    // SAFETY: as above, and nothing is assumed of what is there.
    Ok(unsafe { std::slice::from_raw_parts_mut(pointer.cast(), n) })
}

/// As [`room`], set to zeros.
///
/// # Safety
/// As for [`room`].
pub(crate) unsafe fn zeroed<'a>(pointer: *mut f32, n: usize, what: &str) -> Result<&'a mut [f32], Failure> {
    // SAFETY: the same contract.
    let room = unsafe { room(pointer, n, what) }?;
    for place in room.iter_mut() {
        place.write(0.0);
    }
    // SAFETY: the same place, with a value in each element.
    Ok(unsafe { std::slice::from_raw_parts_mut(room.as_mut_ptr().cast(), n) })
}

/// Writes text as far as it fits, cut off after a whole character, with a zero at the end; gives the length of all of it.
pub(crate) fn write_text(room: &mut [MaybeUninit<c_char>], text: &str) -> usize {
    let end = text.floor_char_boundary(room.len().saturating_sub(1));
    for (place, byte) in room.iter_mut().zip(text.bytes().take(end).chain([0])) {
        place.write(c_char::from_ne_bytes([byte]));
    }
    text.len()
}

/// A place for one result, which cannot be null.
#[derive(Debug)]
pub(crate) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// # Safety
    /// The pointer is null, or points at room for a value that nobody else uses until [`Out::set`].
    pub(crate) unsafe fn new(pointer: *mut T, what: &str) -> Result<Self, Failure> {
        check(pointer, what)?;
        Ok(Self(pointer))
    }

    pub(crate) fn set(&self, value: T) {
        // SAFETY: not null and aligned, checked by `new`, whose caller guarantees the rest.
        unsafe { self.0.write(value) };
    }
}

/// What a struct says of its size.
///
/// # Safety
/// The pointer is null or points at an initialised `struct_size`.
unsafe fn size_at<T: Versioned>(pointer: *const T) -> Result<usize, Failure> {
    check(pointer, T::NAME)?;
    // SAFETY: not null and aligned; `struct_size` is the first field.
    let size = unsafe { pointer.cast::<usize>().read() };
    if (T::FIRST..=LARGEST).contains(&size) {
        return Ok(size);
    }
    let message = format!(
        "{name}.struct_size is {size}, and {first} at least: set it to sizeof({name})",
        name = T::NAME,
        first = T::FIRST
    );
    Err(Failure::new(RinStatus::StructSize, "StructSize", message))
}

/// The struct at a pointer. Fields that its program does not know are those of `defaults`.
///
/// # Safety
/// The pointer is null, or points at as many initialised bytes as its `struct_size` says, or at a wrong `struct_size`.
pub(crate) unsafe fn read<T: Versioned>(pointer: *const T, defaults: T) -> Result<T, Failure> {
    // SAFETY: the same contract.
    let size = unsafe { size_at(pointer) }?.min(size_of::<T>());
    let mut value = defaults;
    // SAFETY: both sides have `size` bytes and are apart; any bytes are a `T`.
    unsafe { std::ptr::copy_nonoverlapping(pointer.cast::<u8>(), (&raw mut value).cast::<u8>(), size) };
    Ok(value)
}

/// A place for a struct.
#[derive(Debug)]
pub(crate) struct StructOut<T> {
    pointer: *mut T,
    size: usize,
}

impl<T: Versioned> StructOut<T> {
    /// # Safety
    /// The pointer is null, or points at a `struct_size` and as many bytes as it says, which nobody else uses until the
    /// last [`StructOut::set`].
    pub(crate) unsafe fn new(pointer: *mut T) -> Result<Self, Failure> {
        // SAFETY: the same contract.
        let size = unsafe { size_at(pointer) }?;
        Ok(Self { pointer, size })
    }

    /// Writes what its program knows of the struct; its `struct_size` stays.
    pub(crate) fn set(&self, value: &T) {
        let n = self.size.min(size_of::<T>());
        let from = std::ptr::from_ref(value).cast::<u8>();
        // SAFETY: both sides have `n` bytes, as `new` and the type guarantee, and are apart.
        unsafe { std::ptr::copy_nonoverlapping(from, self.pointer.cast::<u8>(), n) };
        // SAFETY: the first field, whose place `new` has checked.
        unsafe { self.pointer.cast::<usize>().write(self.size) };
    }
}

/// A copy of some values that C can give back to [`free`]; null for none.
pub(crate) fn copied<T: Copy>(values: &[T]) -> Result<*mut T, Failure> {
    if values.is_empty() {
        return Ok(std::ptr::null_mut());
    }
    // SAFETY: any size may be asked for.
    let room = unsafe { libc::malloc(size_of_val(values)) }.cast::<T>();
    if room.is_null() {
        let message = format!("the system has no {} bytes for a result", size_of_val(values));
        return Err(Failure::new(RinStatus::Memory, "OutOfMemory", message));
    }
    // SAFETY: `room` has as many bytes and is aligned for every type that C has.
    unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), room, values.len()) };
    Ok(room)
}

/// Gives memory of [`copied`] back; of null, nothing.
///
/// # Safety
/// The pointer is null or from [`copied`], and is not used any more.
pub(crate) unsafe fn free<T>(pointer: *mut T) {
    // SAFETY: `copied` has it from `malloc`.
    unsafe { libc::free(pointer.cast::<c_void>()) };
}

/// Text in an array of C, cut off where it is too long, with a zero at the end.
pub(crate) fn array<const N: usize>(text: &str) -> [c_char; N] {
    let mut array = [0; N];
    let mut end = text.len().min(N.saturating_sub(1));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    for (place, byte) in array.iter_mut().zip(text.bytes().take(end)) {
        *place = c_char::from_ne_bytes([byte]);
    }
    array
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_hold_whole_characters_and_a_zero() {
        let bytes = |array: [c_char; 6]| array.map(|c| c.to_ne_bytes()[0]);
        assert_eq!(bytes(array("abc")), *b"abc\0\0\0");
        assert_eq!(bytes(array("abcdef")), *b"abcde\0");
        assert_eq!(bytes(array("abcd\u{fc}")), *b"abcd\0\0", "a character of two bytes is not cut in half");
    }

    #[test]
    fn what_is_not_aligned_is_no_pointer() {
        let bytes = [0_u32; 2];
        let odd = bytes.as_ptr().wrapping_byte_add(1);
        // SAFETY: refused before anything is read.
        assert!(unsafe { values(odd, 1, "ids") }.is_err());
        // SAFETY: nothing is read of nothing.
        assert!(unsafe { values(odd, 0, "ids") }.is_ok_and(<[u32]>::is_empty));
    }
}
