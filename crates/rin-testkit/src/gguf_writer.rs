//! Writes GGUF files, right ones and wrong ones.

/// Numbers of value types.
pub mod value_type {
    /// 8-bit unsigned.
    pub const U8: u32 = 0;
    /// 32-bit unsigned.
    pub const U32: u32 = 4;
    /// 32-bit signed.
    pub const I32: u32 = 5;
    /// Single precision.
    pub const F32: u32 = 6;
    /// One byte, 0 or 1.
    pub const BOOL: u32 = 7;
    /// Length and bytes.
    pub const STRING: u32 = 8;
    /// Element type, count and elements.
    pub const ARRAY: u32 = 9;
    /// 64-bit unsigned.
    pub const U64: u32 = 10;
    /// 64-bit signed.
    pub const I64: u32 = 11;
    /// Double precision.
    pub const F64: u32 = 12;
}

/// A GGUF file under construction. Nothing is checked: what it is told, it writes.
#[derive(Debug, Clone)]
pub struct GgufWriter {
    magic: [u8; 4],
    version: u32,
    alignment: u64,
    n_tensors: Option<u64>,
    n_keys: Option<u64>,
    keys: Vec<(Vec<u8>, Vec<u8>)>,
    tensors: Vec<Tensor>,
}

#[derive(Debug, Clone)]
struct Tensor {
    name: Vec<u8>,
    ne: Vec<u64>,
    type_id: u32,
    offset: Option<u64>,
    bytes: Vec<u8>,
}

/// A string as GGUF has it: length, bytes.
pub fn string(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes()[..], bytes].concat()
}

/// An array as GGUF has it: element type, count, elements.
pub fn array(elem_type: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    [&elem_type.to_le_bytes()[..], &count.to_le_bytes(), elements].concat()
}

impl GgufWriter {
    /// An empty file of a version.
    pub fn new(version: u32) -> Self {
        Self {
            magic: *b"GGUF",
            version,
            alignment: 32,
            n_tensors: None,
            n_keys: None,
            keys: Vec::new(),
            tensors: Vec::new(),
        }
    }

    /// Other first bytes than `GGUF`.
    #[must_use]
    pub fn magic(mut self, magic: [u8; 4]) -> Self {
        self.magic = magic;
        self
    }

    /// A count of tensors other than the true one.
    #[must_use]
    pub fn claim_tensors(mut self, n: u64) -> Self {
        self.n_tensors = Some(n);
        self
    }

    /// A count of keys other than the true one.
    #[must_use]
    pub fn claim_keys(mut self, n: u64) -> Self {
        self.n_keys = Some(n);
        self
    }

    /// Alignment of the data, in bytes, and the key that says so.
    #[must_use]
    pub fn alignment(mut self, alignment: u32) -> Self {
        self.alignment = alignment.into();
        self.kv_u32("general.alignment", alignment)
    }

    /// A value of any type, as bytes. Replaces the value of a key that is there.
    #[must_use]
    pub fn kv_raw(mut self, key: &str, type_id: u32, value: &[u8]) -> Self {
        let value = [&type_id.to_le_bytes()[..], value].concat();
        match self.keys.iter_mut().find(|entry| entry.0 == key.as_bytes()) {
            Some(entry) => entry.1 = value,
            None => self.keys.push((key.as_bytes().to_vec(), value)),
        }
        self
    }

    /// A key with its value, even where the key is there already or is no text.
    #[must_use]
    pub fn kv_again(mut self, key: &[u8], type_id: u32, value: &[u8]) -> Self {
        self.keys.push((key.to_vec(), [&type_id.to_le_bytes()[..], value].concat()));
        self
    }

    /// Takes a key out.
    #[must_use]
    pub fn without(mut self, key: &str) -> Self {
        self.keys.retain(|entry| entry.0 != key.as_bytes());
        self
    }

    /// A string.
    #[must_use]
    pub fn kv_str(self, key: &str, value: &str) -> Self {
        self.kv_raw(key, value_type::STRING, &string(value.as_bytes()))
    }

    /// A u32.
    #[must_use]
    pub fn kv_u32(self, key: &str, value: u32) -> Self {
        self.kv_raw(key, value_type::U32, &value.to_le_bytes())
    }

    /// An i32.
    #[must_use]
    pub fn kv_i32(self, key: &str, value: i32) -> Self {
        self.kv_raw(key, value_type::I32, &value.to_le_bytes())
    }

    /// A u64.
    #[must_use]
    pub fn kv_u64(self, key: &str, value: u64) -> Self {
        self.kv_raw(key, value_type::U64, &value.to_le_bytes())
    }

    /// An f32.
    #[must_use]
    pub fn kv_f32(self, key: &str, value: f32) -> Self {
        self.kv_raw(key, value_type::F32, &value.to_le_bytes())
    }

    /// A bool.
    #[must_use]
    pub fn kv_bool(self, key: &str, value: bool) -> Self {
        self.kv_raw(key, value_type::BOOL, &[value.into()])
    }

    /// An array of strings.
    #[must_use]
    pub fn kv_strs<S: AsRef<[u8]>>(self, key: &str, values: &[S]) -> Self {
        let elements: Vec<u8> = values.iter().flat_map(|value| string(value.as_ref())).collect();
        self.kv_raw(key, value_type::ARRAY, &array(value_type::STRING, values.len() as u64, &elements))
    }

    /// An array of f32.
    #[must_use]
    pub fn kv_f32s(self, key: &str, values: &[f32]) -> Self {
        let elements: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.kv_raw(key, value_type::ARRAY, &array(value_type::F32, values.len() as u64, &elements))
    }

    /// An array of i32.
    #[must_use]
    pub fn kv_i32s(self, key: &str, values: &[i32]) -> Self {
        let elements: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.kv_raw(key, value_type::ARRAY, &array(value_type::I32, values.len() as u64, &elements))
    }

    /// A tensor behind the others: `ne` as GGUF has it (columns first), the number of its type, its bytes.
    #[must_use]
    pub fn tensor(mut self, name: &str, ne: &[u64], type_id: u32, bytes: Vec<u8>) -> Self {
        let (name, ne) = (name.as_bytes().to_vec(), ne.to_vec());
        self.tensors.push(Tensor { name, ne, type_id, offset: None, bytes });
        self
    }

    /// A tensor that claims to lie at `offset` of the data, and brings `bytes` to wherever the data has got to.
    #[must_use]
    pub fn tensor_at(mut self, name: &str, ne: &[u64], type_id: u32, offset: u64, bytes: Vec<u8>) -> Self {
        let (name, ne) = (name.as_bytes().to_vec(), ne.to_vec());
        self.tensors.push(Tensor { name, ne, type_id, offset: Some(offset), bytes });
        self
    }

    /// Takes a tensor out.
    #[must_use]
    pub fn without_tensor(mut self, name: &str) -> Self {
        self.tensors.retain(|tensor| tensor.name != name.as_bytes());
        self
    }

    /// The file.
    pub fn finish(&self) -> Vec<u8> {
        let mut file = Vec::new();
        file.extend(self.magic);
        file.extend(self.version.to_le_bytes());
        file.extend(self.n_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        file.extend(self.n_keys.unwrap_or(self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            file.extend(string(key));
            file.extend(value);
        }
        let mut data = Vec::new();
        for tensor in &self.tensors {
            file.extend(string(&tensor.name));
            file.extend(u32::try_from(tensor.ne.len()).unwrap_or(u32::MAX).to_le_bytes());
            file.extend(tensor.ne.iter().flat_map(|n| n.to_le_bytes()));
            file.extend(tensor.type_id.to_le_bytes());
            file.extend(tensor.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&tensor.bytes);
            self.pad(&mut data);
        }
        if !self.tensors.is_empty() {
            self.pad(&mut file);
        }
        file.extend(data);
        file
    }

    /// Zeros up to the alignment, where it is one that can be kept.
    fn pad(&self, bytes: &mut Vec<u8>) {
        let alignment = usize::try_from(self.alignment).unwrap_or(1).clamp(1, 1 << 16);
        bytes.resize(bytes.len().next_multiple_of(alignment), 0);
    }
}
