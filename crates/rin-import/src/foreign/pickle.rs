//! Pickles as data: numbers, names, tuples, lists, dictionaries and tensors. Nothing is called.
//!
//! Opcodes: the module `pickletools` of Python, protocols 0 to 5, as far as `torch.save` writes them. A value is a place
//! in one list, so neither depth nor sharing costs memory or stack, and there are no more values than bytes.

use super::ForeignError;
use super::bytes::Bytes;
use std::collections::HashMap;

/// Longest pickle: names and places, never weights.
const MAX_PICKLE: usize = 16 << 20;
/// Most values: some thirty describe a tensor.
const MAX_VALUES: usize = 1 << 20;
/// Longest name of a global or a storage. A value can be remembered and used again and again, so what is copied out of
/// one is short.
const MAX_NAME: usize = 512;
/// Most dimensions of a shape.
const MAX_DIMS: usize = 64;

/// Place of a value.
pub(super) type Id = usize;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float,
    Str(String),
    Bytes,
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A name of a module and of something in it.
    Global(String),
    /// What a persistent id names: `(type, key)`, the type as a global name, and the number of elements.
    Storage {
        kind: String,
        key: String,
        numel: i64,
    },
    /// A tensor over a storage.
    Tensor {
        storage: Id,
        offset: i64,
        shape: Vec<i64>,
        stride: Vec<i64>,
    },
    /// The number in front of legacy files, and others that no field is as wide as.
    Long(Vec<u8>),
}

/// The values of a pickle.
#[derive(Debug, Default)]
pub(super) struct Pickle {
    values: Vec<Value>,
    pub(super) root: Id,
}

impl Pickle {
    pub(super) fn get(&self, id: Id) -> &Value {
        self.values.get(id).unwrap_or(&Value::None)
    }

    /// All values.
    pub(super) fn all(&self) -> impl Iterator<Item = &Value> {
        self.values.iter()
    }

    pub(super) fn text(&self, id: Id) -> Option<&str> {
        if let Value::Str(text) = self.get(id) { Some(text) } else { None }
    }

    fn int(&self, id: Id) -> Option<i64> {
        match self.get(id) {
            Value::Int(n) => Some(*n),
            Value::Bool(b) => Some(i64::from(*b)),
            _ => None,
        }
    }

    fn ints(&self, id: Id) -> Option<Vec<i64>> {
        match self.get(id) {
            Value::Tuple(items) | Value::List(items) if items.len() <= MAX_DIMS => {
                items.iter().map(|&id| self.int(id)).collect()
            }
            _ => None,
        }
    }

    /// Reads one pickle off the front.
    pub(super) fn read(bytes: &mut Bytes<'_>) -> Result<Self, ForeignError> {
        let mut machine =
            Machine { pickle: Self::default(), stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() };
        let start = bytes.position();
        loop {
            if bytes.position().saturating_sub(start) > MAX_PICKLE || machine.pickle.values.len() > MAX_VALUES {
                return Err(bytes.fault(format!("a pickle of more than {MAX_PICKLE} bytes or {MAX_VALUES} values")));
            }
            let opcode = bytes.u8()?;
            if opcode == b'.' {
                machine.pickle.root = machine.pop(bytes)?;
                return Ok(machine.pickle);
            }
            machine.step(opcode, bytes)?;
        }
    }
}

struct Machine {
    pickle: Pickle,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

impl Machine {
    fn push(&mut self, value: Value) {
        self.pickle.values.push(value);
        self.stack.push(self.pickle.values.len().saturating_sub(1));
    }

    fn pop(&mut self, bytes: &Bytes<'_>) -> Result<Id, ForeignError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(bytes.fault("a value is taken that was never put"));
        }
        self.stack.pop().ok_or_else(|| bytes.fault("a value is taken that was never put"))
    }

    fn pop_mark(&mut self, bytes: &Bytes<'_>) -> Result<Vec<Id>, ForeignError> {
        let mark = self.marks.pop().ok_or_else(|| bytes.fault("a mark is taken that was never put"))?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn top(&self, bytes: &Bytes<'_>) -> Result<Id, ForeignError> {
        self.stack.last().copied().ok_or_else(|| bytes.fault("the last value is wanted where there is none"))
    }

    fn text(bytes: &Bytes<'_>, text: &[u8]) -> Result<String, ForeignError> {
        String::from_utf8(text.to_vec()).map_err(|_| bytes.fault("a text that is no UTF-8"))
    }

    fn step(&mut self, opcode: u8, bytes: &mut Bytes<'_>) -> Result<(), ForeignError> {
        match opcode {
            0x80 => {
                let protocol = bytes.u8()?;
                if protocol > 5 {
                    return Err(bytes.fault(format!("protocol {protocol}, and 0 to 5 are known")));
                }
            }
            0x95 => drop(bytes.u64()?),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop(bytes)?),
            b'1' => drop(self.pop_mark(bytes)?),
            b'2' => {
                let top = self.top(bytes)?;
                self.stack.push(top);
            }
            b'q' | b'r' | 0x94 | b'p' | b'h' | b'j' | b'g' => self.memo(opcode, bytes)?,
            b'c' => {
                let (module, name) = (bytes.line()?, bytes.line()?);
                let name = format!("{}.{}", Self::text(bytes, module)?, Self::text(bytes, name)?);
                self.push(Value::Global(name));
            }
            0x93 => {
                let (name, module) = (self.pop(bytes)?, self.pop(bytes)?);
                let (Some(module), Some(name)) = (self.pickle.text(module), self.pickle.text(name)) else {
                    return Err(bytes.fault("a global without a name"));
                };
                if module.len().saturating_add(name.len()) > MAX_NAME {
                    return Err(bytes.fault("a global with a name beyond all measure"));
                }
                let name = format!("{module}.{name}");
                self.push(Value::Global(name));
            }
            b'Q' => {
                let id = self.pop(bytes)?;
                let storage = self.storage(id).ok_or_else(|| bytes.fault("a persistent id that is no storage"))?;
                self.push(storage);
            }
            b'R' => {
                let (arguments, function) = (self.pop(bytes)?, self.pop(bytes)?);
                self.reduce(function, arguments, bytes)?;
            }
            b'b' => {
                let state = self.pop(bytes)?;
                let object = self.top(bytes)?;
                // A dictionary's own attributes, such as the versions of the modules, are no weights.
                if !matches!((self.pickle.get(object), self.pickle.get(state)), (Value::Dict(_), Value::Dict(_))) {
                    return Err(ForeignError::UnsupportedObject { what: "an object with a state".to_owned() });
                }
            }
            0x81 | 0x92 | b'i' | b'o' => {
                return Err(ForeignError::UnsupportedObject { what: self.last_global() });
            }
            0x82..=0x84 => return Err(ForeignError::UnsupportedObject { what: "a registered extension".to_owned() }),
            other => return self.scalar(other, bytes),
        }
        Ok(())
    }

    /// Numbers and truth.
    fn scalar(&mut self, opcode: u8, bytes: &mut Bytes<'_>) -> Result<(), ForeignError> {
        match opcode {
            b'N' => self.push(Value::None),
            0x88 | 0x89 => self.push(Value::Bool(opcode == 0x88)),
            b'J' => {
                let n = i32::from_le_bytes(bytes.array()?);
                self.push(Value::Int(n.into()));
            }
            b'K' => {
                let n = bytes.u8()?;
                self.push(Value::Int(n.into()));
            }
            b'M' => {
                let n = bytes.u16()?;
                self.push(Value::Int(n.into()));
            }
            b'I' | b'L' => self.decimal(bytes)?,
            0x8a => {
                let n = bytes.u8()?;
                let digits = bytes.length(n)?;
                self.long(digits);
            }
            b'G' => {
                bytes.take(8)?;
                self.push(Value::Float);
            }
            b'F' => {
                bytes.line()?;
                self.push(Value::Float);
            }
            other => return self.string_of(other, bytes),
        }
        Ok(())
    }

    /// Texts and bytes.
    fn string_of(&mut self, opcode: u8, bytes: &mut Bytes<'_>) -> Result<(), ForeignError> {
        match opcode {
            b'X' | b'T' => {
                let n = bytes.u32()?;
                self.string(n.into(), bytes)?;
            }
            0x8c | b'U' => {
                let n = bytes.u8()?;
                self.string(n.into(), bytes)?;
            }
            0x8d => {
                let n = bytes.u64()?;
                self.string(n, bytes)?;
            }
            b'V' => {
                let line = bytes.line()?;
                let text = Self::text(bytes, line)?;
                self.push(Value::Str(text));
            }
            b'S' => {
                let line = bytes.line()?.trim_ascii();
                let quoted = line.strip_prefix(b"'").and_then(|line| line.strip_suffix(b"'"));
                let text = Self::text(bytes, quoted.unwrap_or(line))?;
                self.push(Value::Str(text));
            }
            b'B' => {
                let n = bytes.u32()?;
                bytes.length(n)?;
                self.push(Value::Bytes);
            }
            b'C' => {
                let n = bytes.u8()?;
                bytes.length(n)?;
                self.push(Value::Bytes);
            }
            other => return self.container(other, bytes),
        }
        Ok(())
    }

    /// Tuples, lists and dictionaries.
    fn container(&mut self, opcode: u8, bytes: &mut Bytes<'_>) -> Result<(), ForeignError> {
        match opcode {
            b')' => self.push(Value::Tuple(Vec::new())),
            b']' => self.push(Value::List(Vec::new())),
            b'}' => self.push(Value::Dict(Vec::new())),
            0x85..=0x87 => {
                let mut items = Vec::new();
                for _ in 0x84..opcode {
                    items.push(self.pop(bytes)?);
                }
                items.reverse();
                self.push(Value::Tuple(items));
            }
            b't' => {
                let items = self.pop_mark(bytes)?;
                self.push(Value::Tuple(items));
            }
            b'l' => {
                let items = self.pop_mark(bytes)?;
                self.push(Value::List(items));
            }
            b'd' => {
                let items = self.pop_mark(bytes)?;
                self.push(Value::Dict(pairs(&items)));
            }
            b'a' => {
                let item = self.pop(bytes)?;
                self.extend(&[item], bytes)?;
            }
            b'e' => {
                let items = self.pop_mark(bytes)?;
                self.extend(&items, bytes)?;
            }
            b's' => {
                let value = self.pop(bytes)?;
                let key = self.pop(bytes)?;
                self.insert(&[key, value], bytes)?;
            }
            b'u' => {
                let items = self.pop_mark(bytes)?;
                self.insert(&items, bytes)?;
            }
            other => return Err(bytes.fault(format!("the opcode {other:#04x} is not known"))),
        }
        Ok(())
    }

    /// Decimal digits of protocol 0.
    fn decimal(&mut self, bytes: &mut Bytes<'_>) -> Result<(), ForeignError> {
        let line = bytes.line()?;
        let text = Self::text(bytes, line)?;
        match text.trim_end_matches('L').trim() {
            "00" => self.push(Value::Bool(false)),
            "01" => self.push(Value::Bool(true)),
            digits => match digits.parse() {
                Ok(n) => self.push(Value::Int(n)),
                Err(_) => self.push(Value::Long(Vec::new())),
            },
        }
        Ok(())
    }

    /// An integer of any width, little-endian, in two's complement.
    fn long(&mut self, digits: &[u8]) {
        if digits.len() > 8 {
            return self.push(Value::Long(digits.to_vec()));
        }
        let fill = if digits.last().is_some_and(|&byte| byte >= 0x80) { 0xff } else { 0 };
        let mut wide = [fill; 8];
        wide.iter_mut().zip(digits).for_each(|(to, from)| *to = *from);
        self.push(Value::Int(i64::from_le_bytes(wide)));
    }

    fn string(&mut self, length: u64, bytes: &mut Bytes<'_>) -> Result<(), ForeignError> {
        let text = bytes.length(length)?;
        let text = Self::text(bytes, text)?;
        self.push(Value::Str(text));
        Ok(())
    }

    fn extend(&mut self, items: &[Id], bytes: &Bytes<'_>) -> Result<(), ForeignError> {
        let list = self.top(bytes)?;
        match self.pickle.values.get_mut(list) {
            Some(Value::List(list)) => list.extend_from_slice(items),
            _ => return Err(bytes.fault("an item for something that is no list")),
        }
        Ok(())
    }

    fn insert(&mut self, items: &[Id], bytes: &Bytes<'_>) -> Result<(), ForeignError> {
        let dict = self.top(bytes)?;
        match self.pickle.values.get_mut(dict) {
            Some(Value::Dict(dict)) => dict.extend(pairs(items)),
            _ => return Err(bytes.fault("an entry for something that is no dictionary")),
        }
        Ok(())
    }

    /// Remembers the last value, or brings one back.
    fn memo(&mut self, opcode: u8, bytes: &mut Bytes<'_>) -> Result<(), ForeignError> {
        let key = match opcode {
            b'q' | b'h' => u64::from(bytes.u8()?),
            b'r' | b'j' => u64::from(bytes.u32()?),
            0x94 => self.memo.len() as u64,
            _ => {
                let line = bytes.line()?;
                let digits = std::str::from_utf8(line).ok().and_then(|text| text.trim().parse().ok());
                digits.ok_or_else(|| bytes.fault("a place of memory that is no number"))?
            }
        };
        if [b'h', b'j', b'g'].contains(&opcode) {
            let id = self.memo.get(&key).copied();
            self.stack.push(id.ok_or_else(|| bytes.fault("a value is remembered that was never kept"))?);
        } else {
            let top = self.top(bytes)?;
            self.memo.insert(key, top);
        }
        Ok(())
    }

    fn storage(&self, id: Id) -> Option<Value> {
        let Value::Tuple(items) = self.pickle.get(id) else { return None };
        let [tag, kind, key, _location, numel, ..] = items[..] else { return None };
        let (Some("storage"), Value::Global(kind)) = (self.pickle.text(tag), self.pickle.get(kind)) else {
            return None;
        };
        let key = self.pickle.text(key).filter(|key| key.len() <= MAX_NAME)?.to_owned();
        let kind = Some(kind).filter(|kind| kind.len() <= MAX_NAME)?.clone();
        Some(Value::Storage { kind, key, numel: self.pickle.int(numel)? })
    }

    /// The calls that rebuild data, done by hand; all others are refused.
    fn reduce(&mut self, function: Id, arguments: Id, bytes: &Bytes<'_>) -> Result<(), ForeignError> {
        let Value::Global(name) = self.pickle.get(function) else {
            return Err(ForeignError::UnsupportedObject { what: "a call of something without a name".to_owned() });
        };
        let Value::Tuple(items) = self.pickle.get(arguments) else {
            return Err(bytes.fault("a call whose arguments are no tuple"));
        };
        let value = match (name.as_str(), &items[..]) {
            ("collections.OrderedDict", []) => Value::Dict(Vec::new()),
            ("torch._utils._rebuild_tensor_v2", [storage, offset, shape, stride, ..]) => {
                let (offset, shape) = (self.pickle.int(*offset), self.pickle.ints(*shape));
                match (self.pickle.get(*storage), offset, shape, self.pickle.ints(*stride)) {
                    (Value::Storage { .. }, Some(offset), Some(shape), Some(stride)) => {
                        Value::Tensor { storage: *storage, offset, shape, stride }
                    }
                    _ => return Err(bytes.fault("a tensor that is not described as tensors are")),
                }
            }
            ("torch._utils._rebuild_parameter", [tensor, ..]) => {
                self.stack.push(*tensor);
                return Ok(());
            }
            ("torch.Size", [sizes]) => {
                self.stack.push(*sizes);
                return Ok(());
            }
            _ => return Err(ForeignError::UnsupportedObject { what: shorten(name) }),
        };
        self.push(value);
        Ok(())
    }

    fn last_global(&self) -> String {
        let name = self.pickle.values.iter().rev().find_map(|value| match value {
            Value::Global(name) => Some(shorten(name)),
            _ => None,
        });
        name.unwrap_or_else(|| "an object".to_owned())
    }
}

fn pairs(items: &[Id]) -> Vec<(Id, Id)> {
    items.as_chunks::<2>().0.iter().map(|&[key, value]| (key, value)).collect()
}

/// The start of a name that the file chose.
fn shorten(name: &str) -> String {
    name.chars().take(80).flat_map(char::escape_debug).collect()
}
