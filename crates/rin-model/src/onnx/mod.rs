//! ONNX models: the container, taken apart.
//!
//! An ONNX file is a protocol buffer (`onnx.proto`, version 3 of the format and later): a graph of nodes with named values,
//! its constants, and the versions of the operator sets that its nodes are meant in. [`Model::read`] checks the bytes and
//! lends out names and numbers; what the operators mean is not decided here. Source of the field numbers:
//! <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>.

mod external;
mod tensor;
mod wire;

#[cfg(test)]
mod tests;

pub use external::ExternalFiles;
pub use tensor::{Elements, Tensor, TensorData, element_name};

use crate::error::{Error, fault, fault_at};
use wire::{Field, Message};

const SECTION: &str = "ONNX model";

/// Most messages of a file, all kinds together: what is made of one takes at most a few hundred bytes.
const MAX_MESSAGES: usize = 1 << 20;
/// Longest name, in bytes.
const MAX_NAME: usize = 1 << 12;
/// Most dimensions of a tensor.
pub const MAX_DIMS: usize = 8;

/// An ONNX file.
#[derive(Debug, Clone, PartialEq)]
pub struct Model<'a> {
    /// Version of the format.
    pub ir_version: i64,
    /// Program that wrote it.
    pub producer: &'a str,
    /// Versions of the operator sets by domain; the standard one has an empty domain.
    pub opsets: Vec<(&'a str, i64)>,
    /// The graph.
    pub graph: Graph<'a>,
    /// Functions that the file defines for its own nodes: domain and name.
    pub functions: Vec<(&'a str, &'a str)>,
}

/// Nodes, their constants, and what goes in and out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Graph<'a> {
    /// Name.
    pub name: &'a str,
    /// Nodes in an order in which they can run.
    pub nodes: Vec<Node<'a>>,
    /// Constants by name.
    pub initializers: Vec<Tensor<'a>>,
    /// Values that go in. Files of old versions list their constants here too.
    pub inputs: Vec<ValueInfo<'a>>,
    /// Values that come out.
    pub outputs: Vec<ValueInfo<'a>>,
    /// Constants with few values, which are stored sparsely.
    pub sparse: usize,
}

/// An operation on named values.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Node<'a> {
    /// Name, which may be empty.
    pub name: &'a str,
    /// Operator.
    pub op: &'a str,
    /// Operator set; empty: the standard one.
    pub domain: &'a str,
    /// Names of the values that it takes; empty: left out.
    pub inputs: Vec<&'a str>,
    /// Names of the values that it makes; empty: not wanted.
    pub outputs: Vec<&'a str>,
    /// Parameters by name.
    pub attributes: Vec<(&'a str, Attribute<'a>)>,
}

/// A parameter of a node.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute<'a> {
    /// A number.
    Float(f32),
    /// An integer.
    Int(i64),
    /// Bytes, mostly text.
    String(&'a [u8]),
    /// Numbers.
    Floats(Vec<f32>),
    /// Integers.
    Ints(Vec<i64>),
    /// Bytes, several times.
    Strings(Vec<&'a [u8]>),
    /// A constant.
    Tensor(Tensor<'a>),
    /// What networks of numbers do not have: a graph, a type, a sparse tensor, or a parameter of a function.
    Other,
}

/// A value's name, element type and shape.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ValueInfo<'a> {
    /// Name.
    pub name: &'a str,
    /// Number of the element type in `TensorProto.DataType`; none: no tensor.
    pub element: Option<i32>,
    /// Dimensions; none: not said.
    pub shape: Option<Vec<Dim<'a>>>,
}

/// A dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dim<'a> {
    /// A size.
    Size(u64),
    /// A size that the caller chooses, by its name.
    Named(&'a str),
    /// A size that nobody named.
    Unknown,
}

/// Counts messages, so that a file of many empty ones does not take much memory.
struct Budget(usize);

impl Budget {
    fn spend(&mut self, field: &Field<'_>) -> Result<(), Error> {
        self.0 = self.0.checked_sub(1).ok_or_else(|| {
            let expected = format!("at most {MAX_MESSAGES} nodes, values, constants and parameters");
            Error::BudgetExceeded(fault_at(SECTION, "", field.at, expected, "more"))
        })?;
        Ok(())
    }
}

fn name<'a>(field: &Field<'a>) -> Result<&'a str, Error> {
    let text = field.text()?;
    if text.len() <= MAX_NAME {
        return Ok(text);
    }
    let expected = format!("a name of at most {MAX_NAME} bytes");
    Err(Error::BudgetExceeded(fault_at(SECTION, "name", field.at, expected, text.len())))
}

impl<'a> Model<'a> {
    /// Takes a file apart. Bytes of tensors stay where they are.
    ///
    /// # Errors
    /// `Truncated`, `LengthExceedsFile`, `BadHeader`, `BadType` and `BadUtf8` for bytes that are no such message;
    /// `BudgetExceeded` for more nodes or longer names than any network has; `MissingKey` for a file without a graph.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Error> {
        let mut message = Message::whole(bytes, "model");
        let mut budget = Budget(MAX_MESSAGES);
        let mut model =
            Model { ir_version: 0, producer: "", opsets: vec![], graph: Graph::default(), functions: vec![] };
        let mut found = false;
        while let Some(field) = message.next()? {
            match field.number {
                1 => model.ir_version = field.i64()?,
                2 => model.producer = name(&field)?,
                7 => {
                    // The parts of a message that comes twice belong together.
                    graph(&mut model.graph, &field, &mut budget)?;
                    found = true;
                }
                8 => {
                    budget.spend(&field)?;
                    let mut opset = field.message("operator set")?;
                    let (mut domain, mut version) = ("", 0);
                    while let Some(field) = opset.next()? {
                        match field.number {
                            1 => domain = name(&field)?,
                            2 => version = field.i64()?,
                            _ => {}
                        }
                    }
                    model.opsets.push((domain, version));
                }
                25 => {
                    budget.spend(&field)?;
                    let mut function = field.message("function")?;
                    let (mut domain, mut op) = ("", "");
                    while let Some(field) = function.next()? {
                        match field.number {
                            1 => op = name(&field)?,
                            10 => domain = name(&field)?,
                            _ => {}
                        }
                    }
                    model.functions.push((domain, op));
                }
                _ => {}
            }
        }
        if found {
            return Ok(model);
        }
        Err(Error::MissingKey(fault(SECTION, "graph", "a model with a graph", "none: this is no ONNX file")))
    }
}

fn graph<'a>(graph: &mut Graph<'a>, field: &Field<'a>, budget: &mut Budget) -> Result<(), Error> {
    let mut message = field.message("graph")?;
    while let Some(field) = message.next()? {
        match field.number {
            1 => graph.nodes.push(node(&field, budget)?),
            2 => graph.name = name(&field)?,
            5 => {
                budget.spend(&field)?;
                graph.initializers.push(Tensor::read(&field)?);
            }
            11 => graph.inputs.push(value_info(&field, budget)?),
            12 => graph.outputs.push(value_info(&field, budget)?),
            15 => graph.sparse = graph.sparse.saturating_add(1),
            _ => {}
        }
    }
    Ok(())
}

fn node<'a>(field: &Field<'a>, budget: &mut Budget) -> Result<Node<'a>, Error> {
    budget.spend(field)?;
    let mut node = Node::default();
    let mut message = field.message("node")?;
    while let Some(field) = message.next()? {
        match field.number {
            1 => {
                budget.spend(&field)?;
                node.inputs.push(name(&field)?);
            }
            2 => {
                budget.spend(&field)?;
                node.outputs.push(name(&field)?);
            }
            3 => node.name = name(&field)?,
            4 => node.op = name(&field)?,
            5 => {
                let (name, value) = attribute(&field, budget)?;
                if node.attribute(name).is_some() {
                    return Err(Error::Duplicate(fault_at(SECTION, name, field.at, "each parameter once", "twice")));
                }
                node.attributes.push((name, value));
            }
            7 => node.domain = name(&field)?,
            _ => {}
        }
    }
    Ok(node)
}

/// Kinds of parameters, `AttributeProto.AttributeType`.
const KINDS: [(u64, &str); 7] =
    [(1, "float"), (2, "int"), (3, "string"), (4, "tensor"), (6, "floats"), (7, "ints"), (8, "strings")];

fn attribute<'a>(field: &Field<'a>, budget: &mut Budget) -> Result<(&'a str, Attribute<'a>), Error> {
    budget.spend(field)?;
    let mut message = field.message("parameter")?;
    let (mut label, mut kind, mut reference) = ("", None, false);
    let (mut float, mut int, mut string, mut tensor) = (0.0, 0, &[][..], None);
    let (mut floats, mut ints, mut strings) = (Vec::new(), Vec::new(), Vec::new());
    let mut seen = 0;
    while let Some(field) = message.next()? {
        match field.number {
            1 => label = name(&field)?,
            2 => (float, seen) = (field.f32()?, 1),
            3 => (int, seen) = (field.i64()?, 2),
            4 => (string, seen) = (field.bytes()?, 3),
            5 => (tensor, seen) = (Some(Tensor::read(&field)?), 4),
            7 => {
                field.push_fixed::<4>(&mut floats)?;
                seen = 6;
            }
            8 => {
                field.push_integers(&mut ints)?;
                seen = 7;
            }
            9 => {
                budget.spend(&field)?;
                strings.push(field.bytes()?);
                seen = 8;
            }
            20 => kind = Some(field.u64()?),
            21 => reference = true,
            6 | 10 | 11 | 14 | 15 | 22 | 23 => seen = 5,
            _ => {}
        }
    }
    // Files of the first versions do not say the kind.
    let kind = kind.filter(|&kind| kind != 0).unwrap_or(seen);
    let value = match kind {
        _ if reference => Attribute::Other,
        1 => Attribute::Float(float),
        2 => Attribute::Int(int),
        3 => Attribute::String(string),
        4 => Attribute::Tensor(tensor.ok_or_else(|| {
            Error::MissingKey(fault_at(SECTION, label, field.at, "a tensor, as the kind says", "none"))
        })?),
        6 => Attribute::Floats(floats.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()),
        7 => Attribute::Ints(ints),
        8 => Attribute::Strings(strings),
        _ => Attribute::Other,
    };
    Ok((label, value))
}

impl<'a> Node<'a> {
    /// A parameter by name.
    pub fn attribute(&self, name: &str) -> Option<&Attribute<'a>> {
        self.attributes.iter().find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// What to call it in a message: its name, or what it makes.
    pub fn label(&self) -> &'a str {
        if self.name.is_empty() { self.outputs.first().copied().unwrap_or_default() } else { self.name }
    }
}

impl Attribute<'_> {
    /// The kind, in a word.
    pub fn kind(&self) -> &'static str {
        let number = match self {
            Self::Float(_) => 1,
            Self::Int(_) => 2,
            Self::String(_) => 3,
            Self::Tensor(_) => 4,
            Self::Floats(_) => 6,
            Self::Ints(_) => 7,
            Self::Strings(_) => 8,
            Self::Other => 0,
        };
        KINDS.iter().find(|(known, _)| *known == number).map_or("graph or type", |(_, name)| name)
    }
}

fn value_info<'a>(field: &Field<'a>, budget: &mut Budget) -> Result<ValueInfo<'a>, Error> {
    budget.spend(field)?;
    let mut info = ValueInfo::default();
    let mut message = field.message("value")?;
    while let Some(field) = message.next()? {
        match field.number {
            1 => info.name = name(&field)?,
            2 => {
                let mut kinds = field.message("type")?;
                while let Some(field) = kinds.next()? {
                    if field.number == 1 {
                        tensor_type(&mut info, &field, budget)?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(info)
}

fn tensor_type<'a>(info: &mut ValueInfo<'a>, field: &Field<'a>, budget: &mut Budget) -> Result<(), Error> {
    let mut message = field.message("tensor type")?;
    info.element = Some(0);
    while let Some(field) = message.next()? {
        match field.number {
            1 => info.element = Some(i32::try_from(field.i64()?).unwrap_or(0)),
            2 => {
                let dims = info.shape.get_or_insert_default();
                let mut shape = field.message("shape")?;
                while let Some(field) = shape.next()? {
                    if field.number == 1 {
                        budget.spend(&field)?;
                        dims.push(dimension(&field)?);
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn dimension<'a>(field: &Field<'a>) -> Result<Dim<'a>, Error> {
    let mut found = Dim::Unknown;
    let mut message = field.message("dimension")?;
    while let Some(field) = message.next()? {
        found = match field.number {
            1 => u64::try_from(field.i64()?).map_or(Dim::Unknown, Dim::Size),
            2 => match name(&field)? {
                "" => Dim::Unknown,
                named => Dim::Named(named),
            },
            _ => found,
        };
    }
    Ok(found)
}
