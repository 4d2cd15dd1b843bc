//! Writing groups and datasets as HDF5: superblock 0, object headers of version 1, symbol tables, contiguous data,
//! strings of variable length. What every version of the library reads. See [`rin_model::hdf5`] for the source.

use super::fault;
use rin_model::Error;
use rin_model::hdf5::{Dataset, Elements, Group, Object};

/// The address that stands for none.
const UNDEFINED: u64 = u64::MAX;
/// Children of a B-tree node: twice this; one leaf under the root is enough for every group.
const TREE_K: u16 = 16;
const SUPERBLOCK: usize = 96;

/// A file in the making; addresses are offsets in it.
struct Writer {
    bytes: Vec<u8>,
    /// Half the entries that a symbol node has room for, the same in the whole file.
    leaf_k: u16,
}

/// Writes a file whose root group this is.
pub(super) fn write(root: &Group) -> Result<Vec<u8>, Error> {
    let leaf_k = u16::try_from(widest(root).div_ceil(2).max(4))
        .map_err(|_| Error::BudgetExceeded(fault("group", "at most 131070 links", "more")))?;
    let mut writer = Writer { bytes: vec![0; SUPERBLOCK], leaf_k };
    let (header, tree, heap) = writer.group(root)?;
    let end = writer.end();
    let mut block = Vec::with_capacity(SUPERBLOCK);
    block.extend(b"\x89HDF\r\n\x1a\n");
    // Versions; sizes of offsets and lengths.
    block.extend([0, 0, 0, 0, 0, 8, 8, 0]);
    block.extend(leaf_k.to_le_bytes());
    block.extend(TREE_K.to_le_bytes());
    block.extend([0; 4]);
    for address in [0, UNDEFINED, end, UNDEFINED, 0, header] {
        block.extend(address.to_le_bytes());
    }
    // The root's entry keeps its B-tree and heap at hand.
    block.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    block.extend(tree.to_le_bytes());
    block.extend(heap.to_le_bytes());
    if let Some(front) = writer.bytes.get_mut(..SUPERBLOCK) {
        front.copy_from_slice(&block);
    }
    Ok(writer.bytes)
}

fn widest(group: &Group) -> usize {
    let below = group.links.iter().filter_map(|(_, object)| match object {
        Object::Group(group) => Some(widest(group)),
        Object::Dataset(_) => None,
    });
    below.fold(group.links.len(), usize::max)
}

/// Pads with zeros to a multiple of 8.
fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

impl Writer {
    fn end(&self) -> u64 {
        u64::try_from(self.bytes.len()).unwrap_or(UNDEFINED)
    }

    /// Appends a block and tells where it begins.
    fn block(&mut self, bytes: &[u8]) -> u64 {
        pad(&mut self.bytes);
        let at = self.end();
        self.bytes.extend(bytes);
        pad(&mut self.bytes);
        at
    }

    /// An object header with its messages, each of a multiple of 8 bytes.
    fn header(&mut self, messages: &[(u16, Vec<u8>)]) -> Result<u64, Error> {
        let mut body = Vec::new();
        for (kind, data) in messages {
            let size = u16::try_from(data.len())
                .map_err(|_| Error::BudgetExceeded(fault("message", "at most 65535 bytes", "more")))?;
            body.extend(kind.to_le_bytes());
            body.extend(size.to_le_bytes());
            body.extend([0; 4]);
            body.extend(data);
        }
        let size = u32::try_from(body.len())
            .map_err(|_| Error::BudgetExceeded(fault("object header", "at most 4 GiB", "more")))?;
        let mut header = vec![1, 0];
        header.extend(u16::try_from(messages.len()).unwrap_or(u16::MAX).to_le_bytes());
        header.extend(1_u32.to_le_bytes());
        header.extend(size.to_le_bytes());
        header.extend([0; 4]);
        header.extend(body);
        Ok(self.block(&header))
    }

    /// A group: addresses of its header, of its B-tree and of its heap.
    fn group(&mut self, group: &Group) -> Result<(u64, u64, u64), Error> {
        let mut entries = Vec::new();
        for (name, object) in &group.links {
            let address = match object {
                Object::Group(group) => self.group(group)?.0,
                Object::Dataset(dataset) => self.dataset(dataset)?,
            };
            entries.push((name.as_str(), address));
        }
        // A lookup is a binary search, so entries lie in the order of their bytes.
        entries.sort_unstable();
        // The heap begins with the empty name, which is the lowest key of the tree.
        let mut names = vec![0; 8];
        let mut offsets = Vec::new();
        for (name, _) in &entries {
            offsets.push(u64::try_from(names.len()).unwrap_or(UNDEFINED));
            names.extend(name.as_bytes());
            names.push(0);
            pad(&mut names);
        }
        let data = self.block(&names);
        let mut heap = b"HEAP\0\0\0\0".to_vec();
        // The size, no free block (1 says so), and where the names are.
        for word in [u64::try_from(names.len()).unwrap_or(UNDEFINED), 1, data] {
            heap.extend(word.to_le_bytes());
        }
        let heap = self.block(&heap);
        let mut node = b"SNOD\x01\0".to_vec();
        node.extend(u16::try_from(entries.len()).unwrap_or(u16::MAX).to_le_bytes());
        for (offset, (_, address)) in offsets.iter().zip(&entries) {
            node.extend(offset.to_le_bytes());
            node.extend(address.to_le_bytes());
            node.extend([0; 24]);
        }
        // The library reads a node whole, whatever it holds.
        node.resize(usize::from(self.leaf_k).saturating_mul(2 * 40).saturating_add(8), 0);
        let node = self.block(&node);
        let mut tree = b"TREE\0\0".to_vec();
        tree.extend(u16::from(!entries.is_empty()).to_le_bytes());
        for word in [UNDEFINED, UNDEFINED, 0, node, offsets.last().copied().unwrap_or(0)] {
            tree.extend(word.to_le_bytes());
        }
        let keys_and_children = usize::from(TREE_K).saturating_mul(32).saturating_add(8);
        tree.resize(keys_and_children.saturating_add(24), 0);
        let tree = self.block(&tree);
        let mut table = tree.to_le_bytes().to_vec();
        table.extend(heap.to_le_bytes());
        Ok((self.header(&[(0x11, table)])?, tree, heap))
    }

    fn dataset(&mut self, dataset: &Dataset) -> Result<u64, Error> {
        let rank = u8::try_from(dataset.shape.len()).unwrap_or(u8::MAX);
        let mut space = vec![1, rank, 0, 0, 0, 0, 0, 0];
        for &size in &dataset.shape {
            space.extend(u64::try_from(size).unwrap_or(UNDEFINED).to_le_bytes());
        }
        let (kind, data) = match &dataset.elements {
            // A class of version 1, its flags, its size; then offset and precision in bits.
            Elements::Integers(values) => {
                let kind = vec![0x10, 0x08, 0, 0, 8, 0, 0, 0, 0, 0, 64, 0, 0, 0, 0, 0];
                (kind, values.iter().flat_map(|value| value.to_le_bytes()).collect())
            }
            Elements::Floats(values) if values.iter().all(|&value| is_single(value)) => {
                let mut kind = vec![0x11, 0x20, 31, 0, 4, 0, 0, 0, 0, 0, 32, 0, 23, 8, 0, 23];
                kind.extend([127, 0, 0, 0, 0, 0, 0, 0]);
                #[expect(clippy::cast_possible_truncation, reason = "each value is one of an f32")]
                let data = values.iter().flat_map(|&value| (value as f32).to_le_bytes()).collect();
                (kind, data)
            }
            Elements::Floats(values) => {
                let mut kind = vec![0x11, 0x20, 63, 0, 8, 0, 0, 0, 0, 0, 64, 0, 52, 11, 0, 52];
                kind.extend([255, 3, 0, 0, 0, 0, 0, 0]);
                (kind, values.iter().flat_map(|value| value.to_le_bytes()).collect())
            }
            Elements::Strings(strings) => {
                // A sequence of characters in UTF-8 that ends with a zero, over bytes.
                let mut kind = vec![0x19, 0x01, 0x01, 0, 16, 0, 0, 0];
                kind.extend([0x10, 0, 0, 0, 1, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0]);
                (kind, self.strings(strings)?)
            }
        };
        let size = u64::try_from(data.len()).unwrap_or(UNDEFINED);
        let at = if data.is_empty() { UNDEFINED } else { self.block(&data) };
        let mut layout = vec![3, 1];
        layout.extend(at.to_le_bytes());
        layout.extend(size.to_le_bytes());
        pad(&mut layout);
        // A fill value of version 2: written at allocation if it was set, and none was.
        let fill = vec![2, 2, 2, 0, 0, 0, 0, 0];
        self.header(&[(1, space), (3, kind), (5, fill), (8, layout)])
    }

    /// The strings in a heap of their own, and their references.
    fn strings(&mut self, strings: &[String]) -> Result<Vec<u8>, Error> {
        let mut heap = b"GCOL\x01\0\0\0".to_vec();
        heap.extend([0; 8]);
        for (index, text) in (1_u16..).zip(strings) {
            heap.extend(index.to_le_bytes());
            heap.extend([1, 0, 0, 0, 0, 0]);
            heap.extend(u64::try_from(text.len()).unwrap_or(UNDEFINED).to_le_bytes());
            heap.extend(text.as_bytes());
            pad(&mut heap);
        }
        if strings.len() > usize::from(u16::MAX).saturating_sub(1) {
            return Err(Error::BudgetExceeded(fault("strings", "at most 65534 strings in a dataset", "more")));
        }
        // What is left belongs to object 0, the free space, whose size counts its own head. The least heap is 4096.
        let size = heap.len().saturating_add(16).next_multiple_of(8).max(4096);
        let free = u64::try_from(size.saturating_sub(heap.len())).unwrap_or(0);
        heap.extend([0; 8]);
        heap.extend(free.to_le_bytes());
        heap.resize(size, 0);
        if let Some(place) = heap.get_mut(8..16) {
            place.copy_from_slice(&u64::try_from(size).unwrap_or(UNDEFINED).to_le_bytes());
        }
        let heap = self.block(&heap);
        let mut references = Vec::new();
        for (index, text) in (1_u32..).zip(strings) {
            references.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
            references.extend(heap.to_le_bytes());
            references.extend(index.to_le_bytes());
        }
        Ok(references)
    }
}

/// Whether an f32 holds the value.
fn is_single(value: f64) -> bool {
    #[expect(clippy::cast_possible_truncation, reason = "the loss is what is asked for")]
    let single = f64::from(value as f32);
    single.to_bits() == value.to_bits()
}
