//! Zip archives whose entries are stored as they are, as `torch.save` writes them.

use super::ForeignError;
use super::bytes::Bytes;

const SECTION: &str = "zip archive";
/// Bytes of the record at the end, without its comment.
const END: usize = 22;
/// Longest comment.
const MAX_COMMENT: usize = 0xffff;
/// Bytes of an entry of the directory without its texts.
const ENTRY: usize = 46;

/// Names and contents of the entries.
pub(super) fn entries(all: &[u8]) -> Result<Vec<(String, &[u8])>, ForeignError> {
    let tail = all.len().saturating_sub(END.saturating_add(MAX_COMMENT));
    let last = all.get(tail..).unwrap_or_default().windows(4).rposition(|four| four == b"PK\x05\x06");
    let end = last.ok_or_else(|| ForeignError::damaged(SECTION, all.len(), "there is no directory at its end"))?;
    let mut record = Bytes::new(all, SECTION);
    record.take(tail.saturating_add(end).saturating_add(10))?;
    let count = usize::from(record.u16()?);
    let (size, start) = (record.u32()?, record.u32()?);
    if count == 0xffff || start == u32::MAX || size == u32::MAX {
        return Err(ForeignError::unsupported(
            "zip archives of more than 4 GiB or 65,535 entries are not read; save the weights as safetensors",
        ));
    }
    let mut directory = Bytes::new(all, SECTION);
    directory.length(start)?;
    if count.saturating_mul(ENTRY) > directory.remaining() {
        return Err(directory.fault(format!("{count} entries are announced, which do not fit")));
    }
    let mut found = Vec::with_capacity(count);
    for _ in 0..count {
        if directory.array()? != *b"PK\x01\x02" {
            return Err(directory.fault("an entry of the directory does not begin as one"));
        }
        directory.take(6)?;
        let method = directory.u16()?;
        directory.take(8)?;
        let (packed, size) = (directory.u32()?, directory.u32()?);
        let (name, extra, comment) = (directory.u16()?, directory.u16()?, directory.u16()?);
        directory.take(8)?;
        let place = directory.u32()?;
        let name = String::from_utf8_lossy(directory.length(name)?).into_owned();
        directory.length(extra)?;
        directory.length(comment)?;
        if packed == u32::MAX || size == u32::MAX || place == u32::MAX {
            return Err(ForeignError::unsupported(
                "zip entries of more than 4 GiB are not read; save the weights as safetensors",
            ));
        }
        if method != 0 || packed != size {
            return Err(ForeignError::unsupported(
                "the archive is compressed, and PyTorch's never are: save the weights anew with torch.save",
            ));
        }
        found.push((name, content(all, place, size)?));
    }
    Ok(found)
}

fn content(all: &[u8], place: u32, size: u32) -> Result<&[u8], ForeignError> {
    let mut local = Bytes::new(all, SECTION);
    local.length(place)?;
    if local.array()? != *b"PK\x03\x04" {
        return Err(local.fault("an entry does not begin as one"));
    }
    local.take(22)?;
    let (name, extra) = (local.u16()?, local.u16()?);
    local.length(name)?;
    local.length(extra)?;
    local.length(size)
}
