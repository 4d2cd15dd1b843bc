//! Object headers, the links of groups, and the elements of datasets.

use super::message::{Datatype, Filter, Kind, Layout};
use super::{Dataset, Elements, File, Group, MAX_DEPTH, Object, UNDEFINED};
use crate::cursor::Cursor;
use crate::error::Error;
use std::collections::HashSet;

/// What the messages of a header said.
#[derive(Default)]
struct Header<'a> {
    shape: Option<Vec<usize>>,
    datatype: Option<Datatype>,
    layout: Option<Layout<'a>>,
    filters: Vec<Filter>,
    /// B-tree and heap of a symbol table.
    symbols: Option<(u64, u64)>,
    /// Names and addresses of links in the header.
    links: Vec<(String, u64)>,
    is_group: bool,
}

impl<'a> File<'a> {
    /// The object whose header is at an address.
    pub(super) fn object(&mut self, address: u64, depth: usize) -> Result<Object, Error> {
        self.step(address)?;
        if depth > MAX_DEPTH {
            let expected = format!("at most {MAX_DEPTH} groups within each other");
            return Err(Error::DepthLimit(self.fault("link", address, expected, "more, or a circle")));
        }
        let header = self.header(address)?;
        if let (Some(shape), Some(datatype), Some(layout)) = (&header.shape, &header.datatype, &header.layout) {
            return self.dataset(address, shape, datatype, layout, &header.filters).map(Object::Dataset);
        }
        let links = match header.symbols {
            Some((tree, heap)) => self.symbols(tree, heap)?,
            None if header.is_group => header.links,
            None => {
                return Err(Error::BadHeader(self.fault("object", address, "a group or a dataset", "something else")));
            }
        };
        let (mut group, mut names) = (Group::default(), HashSet::new());
        for (name, target) in links {
            if name.is_empty() {
                return Err(Error::EmptyKey(self.fault("link", address, "a name", "none")));
            }
            if !names.insert(name.clone()) {
                return Err(Error::Duplicate(self.fault("link", address, "names that occur once", name)));
            }
            let object = self.object(target, depth.saturating_add(1))?;
            group.links.push((name, object));
        }
        Ok(Object::Group(group))
    }

    fn header(&mut self, address: u64) -> Result<Header<'a>, Error> {
        let mut header = Header::default();
        let mut cursor = self.at(address, "object header")?;
        // Blocks of messages still to read: address, length.
        let mut blocks = Vec::new();
        let first = cursor.take(4, "object header")?;
        let (version, ordered) = if first == b"OHDR" {
            let version = cursor.u8("object header version")?;
            let flags = cursor.u8("object header flags")?;
            cursor.take(if flags & 0x20 == 0 { 0 } else { 16 }, "times")?;
            cursor.take(if flags & 0x10 == 0 { 0 } else { 4 }, "attribute limits")?;
            let bytes = cursor.take(1 << (flags & 3), "object header size")?;
            let size = bytes.iter().rev().fold(0_u64, |size, &byte| size << 8 | u64::from(byte));
            blocks.push((Self::address_of(&cursor), size));
            (version, flags & 4 != 0)
        } else {
            let version = first.first().copied().unwrap_or(0);
            cursor.u32("reference count")?;
            let size = cursor.u32("object header size")?;
            cursor.u32("padding")?;
            blocks.push((Self::address_of(&cursor), size.into()));
            (version, false)
        };
        if version != if first == b"OHDR" { 2 } else { 1 } {
            return Err(Error::UnsupportedVersion(self.fault("object header", address, "version 1 or 2", version)));
        }
        while let Some((at, size)) = blocks.pop() {
            self.step(address)?;
            let mut body = Cursor::new(self.slice(at, size, "object header")?, "HDF5");
            let least = if version == 1 {
                8
            } else if ordered {
                6
            } else {
                4
            };
            // What is shorter than a message's own head is padding.
            while body.remaining() >= least {
                self.step(address)?;
                let kind = if version == 1 { body.u16("message")? } else { body.u8("message")?.into() };
                let length = body.u16("message size")?;
                let flags = body.u8("message flags")?;
                body.take(
                    if version == 1 {
                        3
                    } else if ordered {
                        2
                    } else {
                        0
                    },
                    "message head",
                )?;
                let data = body.take(length.into(), "message")?;
                // A shared message lies elsewhere; none of those that matter here are shared in practice.
                if flags & 2 != 0 && matches!(kind, 1 | 3 | 8 | 11) {
                    let expected = "messages in the header itself";
                    return Err(Error::Unsupported(self.fault("object header", address, expected, "a shared one")));
                }
                if kind == 0x10 {
                    let mut data = Cursor::new(data, "HDF5");
                    let (at, size) = (data.u64("continuation")?, data.u64("continuation size")?);
                    blocks.push(if version == 1 { (at, size) } else { self.continuation(at, size)? });
                } else {
                    self.message(&mut header, kind, data, address)?;
                }
            }
        }
        Ok(header)
    }

    /// The messages of a continuation block of a version 2 header, without signature and checksum.
    fn continuation(&self, at: u64, size: u64) -> Result<(u64, u64), Error> {
        if self.slice(at, 4, "continuation")? != b"OCHK" {
            return Err(Error::BadHeader(self.fault("continuation", at, "the signature OCHK", "other bytes")));
        }
        Ok((at.saturating_add(4), size.saturating_sub(8)))
    }

    /// The address where a cursor stands.
    fn address_of(cursor: &Cursor<'_>) -> u64 {
        u64::try_from(cursor.at()).unwrap_or(UNDEFINED)
    }

    fn message(&self, header: &mut Header<'a>, kind: u16, data: &'a [u8], address: u64) -> Result<(), Error> {
        let mut data = Cursor::new(data, "HDF5");
        match kind {
            0x01 => header.shape = Some(self.dataspace(&mut data, address)?),
            0x02 => {
                header.is_group = true;
                if Self::dense_links(&mut data)? {
                    let expected = "a group with its links in its header (at most 8, or libver='earliest')";
                    return Err(Error::Unsupported(self.fault("group", address, expected, "links in a heap")));
                }
            }
            0x03 => header.datatype = Some(self.datatype(&mut data, address)?),
            0x06 => header.links.push(self.link(&mut data, address)?),
            0x08 => header.layout = Some(self.layout(&mut data, address)?),
            0x0b => header.filters = self.filters(&mut data, address)?,
            0x11 => {
                header.is_group = true;
                header.symbols = Some((data.u64("symbol tree")?, data.u64("symbol heap")?));
            }
            _ => {}
        }
        Ok(())
    }

    /// A link message: name and address.
    fn link(&self, data: &mut Cursor<'a>, at: u64) -> Result<(String, u64), Error> {
        data.u8("link version")?;
        let flags = data.u8("link flags")?;
        let kind = if flags & 8 == 0 { 0 } else { data.u8("link type")? };
        if kind != 0 {
            return Err(Error::Unsupported(self.fault("link", at, "hard links", format!("type {kind}"))));
        }
        data.take(if flags & 4 == 0 { 0 } else { 8 }, "creation order")?;
        data.take(usize::from(flags & 16 != 0), "character set")?;
        let bytes = data.take(1 << (flags & 3), "link name length")?;
        let length = bytes.iter().rev().fold(0_u64, |size, &byte| size << 8 | u64::from(byte));
        let name = data.take(usize::try_from(length).unwrap_or(usize::MAX), "link name")?;
        Ok((self.text(name, at)?, data.u64("link address")?))
    }

    fn text(&self, bytes: &[u8], at: u64) -> Result<String, Error> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(Error::BadUtf8(self.fault("text", at, "UTF-8", format!("{} other bytes", bytes.len())))),
        }
    }

    /// The links of a symbol table: its B-tree of version 1 over nodes of names in a heap.
    fn symbols(&mut self, tree: u64, heap: u64) -> Result<Vec<(String, u64)>, Error> {
        let mut cursor = self.at(heap, "local heap")?;
        if cursor.take(4, "local heap")? != b"HEAP" {
            return Err(Error::BadHeader(self.fault("local heap", heap, "the signature HEAP", "other bytes")));
        }
        cursor.take(4, "local heap version")?;
        let size = cursor.u64("local heap size")?;
        cursor.u64("free list")?;
        let names = self.slice(cursor.u64("local heap data")?, size, "local heap data")?;
        let (mut links, mut nodes) = (Vec::new(), Vec::new());
        self.tree_leaves(tree, 0, 8, &mut nodes)?;
        for (_, node) in nodes {
            let mut cursor = self.at(node, "symbol node")?;
            if cursor.take(4, "symbol node")? != b"SNOD" {
                return Err(Error::BadHeader(self.fault("symbol node", node, "the signature SNOD", "other bytes")));
            }
            cursor.take(2, "symbol node version")?;
            for _ in 0..cursor.u16("number of symbols")? {
                self.step(node)?;
                let (offset, target) = (cursor.u64("symbol name")?, cursor.u64("symbol address")?);
                let kind = cursor.u32("symbol cache")?;
                cursor.take(20, "symbol scratch")?;
                if kind == 2 {
                    return Err(Error::Unsupported(self.fault("link", node, "hard links", "a symbolic link")));
                }
                let name = usize::try_from(offset).ok().and_then(|at| names.get(at..));
                let name = name.and_then(|rest| rest.split(|&byte| byte == 0).next());
                let Some(name) = name else {
                    return Err(Error::OutOfBounds(self.fault("symbol name", node, "an offset in the heap", offset)));
                };
                self.reserve(name.len(), node)?;
                links.push((self.text(name, node)?, target));
            }
        }
        Ok(links)
    }

    /// The keys and children of all leaves of a B-tree of version 1, whose keys have `key` bytes.
    pub(super) fn tree_leaves(
        &mut self,
        root: u64,
        kind: u8,
        key: usize,
        leaves: &mut Vec<(&'a [u8], u64)>,
    ) -> Result<(), Error> {
        // Nodes to visit, with the level that they must have.
        let mut stack = vec![(root, None)];
        while let Some((at, want)) = stack.pop() {
            self.step(root)?;
            let mut cursor = self.at(at, "B-tree")?;
            if cursor.take(4, "B-tree")? != b"TREE" || cursor.u8("B-tree type")? != kind {
                return Err(Error::BadHeader(self.fault("B-tree", at, "the signature TREE", "other bytes")));
            }
            let (level, count) = (cursor.u8("B-tree level")?, cursor.u16("B-tree entries")?);
            cursor.take(16, "B-tree siblings")?;
            // A level that falls with each step makes circles impossible.
            if want.is_some_and(|want| level != want) {
                return Err(Error::BadHeader(self.fault("B-tree", at, "the level below", level)));
            }
            let mut children = Vec::new();
            for _ in 0..count {
                self.step(root)?;
                children.push((cursor.take(key, "B-tree key")?, cursor.u64("B-tree child")?));
            }
            match level.checked_sub(1) {
                None => leaves.extend(children),
                Some(below) => stack.extend(children.into_iter().rev().map(|(_, child)| (child, Some(below)))),
            }
        }
        Ok(())
    }

    fn dataset(
        &mut self,
        address: u64,
        shape: &[usize],
        datatype: &Datatype,
        layout: &Layout<'a>,
        filters: &[Filter],
    ) -> Result<Dataset, Error> {
        let count = shape.iter().try_fold(1_usize, |count, &size| count.checked_mul(size));
        let bytes = count.and_then(|count| count.checked_mul(datatype.size));
        let (Some(count), Some(bytes)) = (count, bytes) else {
            let found = format!("{shape:?} of {} bytes each", datatype.size);
            return Err(Error::ShapeOverflow(self.fault("dataset", address, "a size that memory can have", found)));
        };
        // Each element is held as a number of 8 bytes or as a string, beside the stored bytes.
        self.reserve(bytes.saturating_add(count.saturating_mul(8)), address)?;
        let stored = self.stored(address, shape, datatype.size, bytes, layout, filters)?;
        let elements = stored.chunks_exact(datatype.size);
        let word = |element: &[u8]| {
            let fold = |word: u64, &byte: &u8| word << 8 | u64::from(byte);
            if datatype.big_endian { element.iter().fold(0, fold) } else { element.iter().rev().fold(0, fold) }
        };
        let elements = match datatype.kind {
            Kind::Integer { signed } => {
                let unused = 64_u32.saturating_sub(u32::try_from(datatype.size.saturating_mul(8)).unwrap_or(64));
                let mut integers = Vec::with_capacity(count);
                for element in elements {
                    let word = word(element);
                    let integer = if signed {
                        (word << unused).cast_signed() >> unused
                    } else {
                        i64::try_from(word).map_err(|_| {
                            Error::BadType(self.fault("dataset", address, "an integer of at most 63 bits", word))
                        })?
                    };
                    integers.push(integer);
                }
                Elements::Integers(integers)
            }
            Kind::Float if datatype.size == 4 => {
                let single = |element| f32::from_bits(u32::try_from(word(element)).unwrap_or(0));
                Elements::Floats(elements.map(|element| single(element).into()).collect())
            }
            Kind::Float => Elements::Floats(elements.map(|element| f64::from_bits(word(element))).collect()),
            Kind::String => Elements::Strings(
                elements
                    .map(|element| {
                        let text = element.split(|&byte| byte == 0).next().unwrap_or_default();
                        self.text(text, address)
                    })
                    .collect::<Result<_, _>>()?,
            ),
            Kind::VariableString => {
                Elements::Strings(elements.map(|element| self.variable(element, address)).collect::<Result<_, _>>()?)
            }
        };
        Ok(Dataset { shape: shape.to_vec(), elements })
    }

    /// A string in a global heap.
    fn variable(&mut self, element: &[u8], at: u64) -> Result<String, Error> {
        let mut cursor = Cursor::new(element, "HDF5");
        let length = cursor.u32("string length")?;
        let (collection, index) = (cursor.u64("string heap")?, cursor.u32("string index")?);
        if length == 0 {
            return Ok(String::new());
        }
        self.reserve(usize::try_from(length).unwrap_or(usize::MAX), at)?;
        let mut heap = self.at(collection, "global heap")?;
        if heap.take(4, "global heap")? != b"GCOL" {
            return Err(Error::BadHeader(self.fault("global heap", collection, "the signature GCOL", "other bytes")));
        }
        heap.take(4, "global heap version")?;
        let size = heap.u64("global heap size")?;
        let body = self.slice(collection, size, "global heap")?;
        let mut objects = Cursor::new(body, "HDF5");
        objects.take(16, "global heap")?;
        while objects.remaining() >= 16 {
            self.step(collection)?;
            let found = objects.u16("heap object")?;
            objects.take(6, "heap object")?;
            let size = usize::try_from(objects.u64("heap object size")?).unwrap_or(usize::MAX);
            if found == 0 {
                break;
            }
            let data = objects.take(size, "heap object")?;
            let padding = size.checked_next_multiple_of(8).map_or(0, |padded| padded.saturating_sub(size));
            if u32::from(found) == index {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                return match data.get(..length) {
                    Some(text) => self.text(text, at),
                    None => Err(Error::OutOfBounds(self.fault("string", at, format!("{size} bytes"), length))),
                };
            }
            objects.take(padding, "heap padding")?;
        }
        Err(Error::OutOfBounds(self.fault("string", at, "an object of its heap", index)))
    }
}
