//! Writing ONNX files, sound and broken, field by field.

/// A message of a protocol buffer in the making.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proto(Vec<u8>);

impl Proto {
    /// An empty message.
    pub fn new() -> Self {
        Self::default()
    }

    fn varint(mut self, mut value: u64) -> Self {
        loop {
            let [low, ..] = value.to_le_bytes();
            value >>= 7;
            if value == 0 {
                self.0.push(low & 0x7f);
                return self;
            }
            self.0.push(low | 0x80);
        }
    }

    /// An integer.
    #[must_use]
    pub fn int(self, field: u64, value: i64) -> Self {
        self.varint(field << 3).varint(value.cast_unsigned())
    }

    /// A 32-bit float.
    #[must_use]
    pub fn float(self, field: u64, value: f32) -> Self {
        let mut message = self.varint(field << 3 | 5);
        message.0.extend(value.to_le_bytes());
        message
    }

    /// Bytes or text.
    #[must_use]
    pub fn bytes(self, field: u64, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        let mut message = self.varint(field << 3 | 2).varint(value.len() as u64);
        message.0.extend(value);
        message
    }

    /// A nested message.
    #[must_use]
    pub fn message(self, field: u64, value: &Self) -> Self {
        self.bytes(field, &value.0)
    }

    /// The bytes.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// `NodeProto`.
pub fn node(op: &str, inputs: &[&str], outputs: &[&str], attributes: &[Proto]) -> Proto {
    let message = inputs.iter().fold(Proto::new(), |message, name| message.bytes(1, name));
    let message = outputs.iter().fold(message, |message, name| message.bytes(2, name)).bytes(4, op);
    attributes.iter().fold(message, |message, attribute| message.message(5, attribute))
}

/// `AttributeProto` of an integer.
pub fn attribute_int(name: &str, value: i64) -> Proto {
    Proto::new().bytes(1, name).int(3, value).int(20, 2)
}

/// `AttributeProto` of a float.
pub fn attribute_float(name: &str, value: f32) -> Proto {
    Proto::new().bytes(1, name).float(2, value).int(20, 1)
}

/// `AttributeProto` of integers.
pub fn attribute_ints(name: &str, values: &[i64]) -> Proto {
    values.iter().fold(Proto::new().bytes(1, name), |message, value| message.int(8, *value)).int(20, 7)
}

/// `TensorProto` in raw data; `element` is its number in `TensorProto.DataType`.
pub fn tensor(name: &str, element: i64, dims: &[i64], raw: &[u8]) -> Proto {
    dims.iter().fold(Proto::new(), |message, n| message.int(1, *n)).int(2, element).bytes(8, name).bytes(9, raw)
}

/// `TensorProto` of 32-bit floats.
pub fn floats(name: &str, dims: &[i64], values: &[f32]) -> Proto {
    tensor(name, 1, dims, &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())
}

/// `TensorProto` of 64-bit integers.
pub fn integers(name: &str, dims: &[i64], values: &[i64]) -> Proto {
    tensor(name, 7, dims, &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())
}

/// A constant that lies in another file.
pub fn external(name: &str, element: i64, dims: &[i64], entries: &[(&str, &str)]) -> Proto {
    let message = dims.iter().fold(Proto::new(), |message, n| message.int(1, *n)).int(2, element).bytes(8, name);
    let entry = |(key, value): &(&str, &str)| Proto::new().bytes(1, key).bytes(2, value);
    entries.iter().fold(message.int(14, 1), |message, pair| message.message(13, &entry(pair)))
}

/// `ValueInfoProto` of a tensor; a dimension below zero is called `batch`.
pub fn value(name: &str, element: i64, dims: &[i64]) -> Proto {
    let dim = |&n: &i64| if n < 0 { Proto::new().bytes(2, "batch") } else { Proto::new().int(1, n) };
    let shape = dims.iter().fold(Proto::new(), |message, n| message.message(1, &dim(n)));
    let tensor = Proto::new().int(1, element).message(2, &shape);
    Proto::new().bytes(1, name).message(2, &Proto::new().message(1, &tensor))
}

/// `GraphProto`.
pub fn graph(nodes: &[Proto], initializers: &[Proto], inputs: &[Proto], outputs: &[Proto]) -> Proto {
    let message = nodes.iter().fold(Proto::new(), |message, node| message.message(1, node)).bytes(2, "graph");
    let message = initializers.iter().fold(message, |message, tensor| message.message(5, tensor));
    let message = inputs.iter().fold(message, |message, value| message.message(11, value));
    outputs.iter().fold(message, |message, value| message.message(12, value))
}

/// `ModelProto` of an opset of the standard operators.
pub fn model(opset: i64, graph: &Proto) -> Vec<u8> {
    let standard = Proto::new().bytes(1, "").int(2, opset);
    Proto::new().int(1, 8).bytes(2, "rin-testkit").message(7, graph).message(8, &standard).finish()
}
