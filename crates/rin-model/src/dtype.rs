//! Element types of tensors: one table.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! dtypes {
    ($($dtype:ident $name:literal $ggml:expr, $safetensors:expr, $block_len:literal $block_bytes:literal;)+) => {
        /// Element type of a tensor.
        ///
        /// A row is a whole number of blocks, each of [`block_len`](Self::block_len) elements in
        /// [`block_bytes`](Self::block_bytes) bytes. Sources: ggml's type table; the safetensors format.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[expect(non_camel_case_types, reason = "the names are those of ggml")]
        #[non_exhaustive]
        pub enum DType {
            $(#[doc = concat!("`", $name, "`: blocks of ", $block_len, " in ", $block_bytes, " bytes.")] $dtype,)+
        }

        impl DType {
            /// All types.
            pub const ALL: &'static [Self] = &[$(Self::$dtype),+];

            /// Name as ggml writes it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$dtype => $name,)+ }
            }

            /// Number of the type in GGUF files.
            pub fn ggml_id(self) -> Option<u32> {
                match self { $(Self::$dtype => $ggml,)+ }
            }

            /// Name of the type in safetensors files.
            pub fn safetensors_name(self) -> Option<&'static str> {
                match self { $(Self::$dtype => $safetensors,)+ }
            }

            /// Elements in a block.
            pub fn block_len(self) -> u64 {
                match self { $(Self::$dtype => $block_len,)+ }
            }

            /// Bytes of a block.
            pub fn block_bytes(self) -> u64 {
                match self { $(Self::$dtype => $block_bytes,)+ }
            }
        }
    };
}

dtypes! {
    F32     "F32"     Some(0),  Some("F32"),      1 4;
    F16     "F16"     Some(1),  Some("F16"),      1 2;
    BF16    "BF16"    Some(30), Some("BF16"),     1 2;
    F64     "F64"     Some(28), Some("F64"),      1 8;
    F8_E4M3 "F8_E4M3" None,     Some("F8_E4M3"),  1 1;
    F8_E5M2 "F8_E5M2" None,     Some("F8_E5M2"),  1 1;
    I8      "I8"      Some(24), Some("I8"),       1 1;
    I16     "I16"     Some(25), Some("I16"),      1 2;
    I32     "I32"     Some(26), Some("I32"),      1 4;
    I64     "I64"     Some(27), Some("I64"),      1 8;
    U8      "U8"      None,     Some("U8"),       1 1;
    U16     "U16"     None,     Some("U16"),      1 2;
    U32     "U32"     None,     Some("U32"),      1 4;
    U64     "U64"     None,     Some("U64"),      1 8;
    Bool    "BOOL"    None,     Some("BOOL"),     1 1;
    Q4_0    "Q4_0"    Some(2),  None, 32 18;
    Q4_1    "Q4_1"    Some(3),  None, 32 20;
    Q5_0    "Q5_0"    Some(6),  None, 32 22;
    Q5_1    "Q5_1"    Some(7),  None, 32 24;
    Q8_0    "Q8_0"    Some(8),  None, 32 34;
    Q8_1    "Q8_1"    Some(9),  None, 32 36;
    Q2_K    "Q2_K"    Some(10), None, 256 84;
    Q3_K    "Q3_K"    Some(11), None, 256 110;
    Q4_K    "Q4_K"    Some(12), None, 256 144;
    Q5_K    "Q5_K"    Some(13), None, 256 176;
    Q6_K    "Q6_K"    Some(14), None, 256 210;
    Q8_K    "Q8_K"    Some(15), None, 256 292;
    IQ2_XXS "IQ2_XXS" Some(16), None, 256 66;
    IQ2_XS  "IQ2_XS"  Some(17), None, 256 74;
    IQ3_XXS "IQ3_XXS" Some(18), None, 256 98;
    IQ1_S   "IQ1_S"   Some(19), None, 256 50;
    IQ4_NL  "IQ4_NL"  Some(20), None, 32 18;
    IQ3_S   "IQ3_S"   Some(21), None, 256 110;
    IQ2_S   "IQ2_S"   Some(22), None, 256 82;
    IQ4_XS  "IQ4_XS"  Some(23), None, 256 136;
    IQ1_M   "IQ1_M"   Some(29), None, 256 56;
    TQ1_0   "TQ1_0"   Some(34), None, 256 54;
    TQ2_0   "TQ2_0"   Some(35), None, 256 66;
    MXFP4   "MXFP4"   Some(39), None, 32 17;
    NVFP4   "NVFP4"   Some(40), None, 64 36;
    Q1_0    "Q1_0"    Some(41), None, 128 18;
}

impl DType {
    /// The type of a number in a GGUF file; none where ggml has withdrawn it or never gave it.
    pub fn from_ggml(id: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|dtype| dtype.ggml_id() == Some(id))
    }

    /// The type of a name in a safetensors file.
    pub fn from_safetensors(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|dtype| dtype.safetensors_name() == Some(name))
    }

    /// Bytes of a row of `cols` elements; none where it is no whole number of blocks, or overflows.
    pub fn row_bytes(self, cols: u64) -> Option<u64> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        cols.checked_div(self.block_len())?.checked_mul(self.block_bytes())
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for DType {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.iter().copied().find(|dtype| dtype.name() == name);
        known.ok_or_else(|| format!("unknown tensor type `{}`", crate::error::shorten(name)))
    }
}

impl Serialize for DType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for DType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        name.parse().map_err(serde::de::Error::custom)
    }
}
