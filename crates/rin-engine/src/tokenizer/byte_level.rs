//! The byte alphabet of GPT-2: every byte has a printable character.

/// First code point given to the bytes that have no printable character of their own.
const SHIFTED: u32 = 256;

/// Whether a byte stands for itself: printable ASCII, and printable Latin-1 without the soft hyphen.
const fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// Both directions of the alphabet.
#[derive(Debug)]
pub(super) struct ByteAlphabet {
    /// Character of each byte.
    chars: [char; 256],
    /// Byte of each shifted character, from [`SHIFTED`] on.
    shifted: Vec<u8>,
}

impl ByteAlphabet {
    /// Builds the table: the n-th byte that is not printable becomes code point 256 + n.
    pub(super) fn new() -> Self {
        let mut chars = ['\0'; 256];
        let mut shifted = Vec::with_capacity(68);
        let mut next = SHIFTED;
        for byte in 0..=u8::MAX {
            chars[usize::from(byte)] = if is_printable(byte) {
                char::from(byte)
            } else {
                shifted.push(byte);
                next += 1;
                char::from_u32(next - 1).unwrap_or_default()
            };
        }
        Self { chars, shifted }
    }

    /// The character that stands for a byte.
    pub(super) fn char(&self, byte: u8) -> char {
        self.chars[usize::from(byte)]
    }

    /// The byte that a character stands for; none for a character outside the alphabet.
    fn byte(&self, character: char) -> Option<u8> {
        let code = u32::from(character);
        if let Some(index) = code.checked_sub(SHIFTED) {
            return self.shifted.get(usize::try_from(index).ok()?).copied();
        }
        u8::try_from(code).ok().filter(|&byte| is_printable(byte))
    }

    /// Appends the bytes that a token's text stands for.
    ///
    /// A text with a character outside the alphabet, or that is no UTF-8, stands for itself.
    pub(super) fn decode_into(&self, text: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        let complete = std::str::from_utf8(text).is_ok_and(|text| {
            text.chars().all(|character| {
                let byte = self.byte(character);
                out.extend(byte);
                byte.is_some()
            })
        });
        if !complete {
            out.truncate(start);
            out.extend_from_slice(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alphabet_is_a_bijection_with_the_published_corners() {
        let alphabet = ByteAlphabet::new();
        for byte in 0..=u8::MAX {
            assert_eq!(alphabet.byte(alphabet.char(byte)), Some(byte));
        }
        // Corners of OpenAI's encoder.py: NUL, newline, space, DEL, no-break space, soft hyphen.
        for (byte, character) in [(0, 'Ā'), (b'\n', 'Ċ'), (b' ', 'Ġ'), (0x7F, 'ġ'), (0xA0, 'ł'), (0xAD, 'Ń')] {
            assert_eq!(alphabet.char(byte), character);
        }
        assert_eq!(alphabet.byte('\u{144}'), None);
        assert_eq!(alphabet.byte(' '), None);
    }

    #[test]
    fn text_outside_the_alphabet_stands_for_itself() {
        let alphabet = ByteAlphabet::new();
        for (text, bytes) in
            [("Ġa".as_bytes(), b" a".as_slice()), ("Ġ中".as_bytes(), "Ġ中".as_bytes()), (b"\xFF!", b"\xFF!")]
        {
            let mut out = b"x".to_vec();
            alphabet.decode_into(text, &mut out);
            assert_eq!(&out[1..], bytes);
        }
    }
}
