//! Shapes of values on the wire, and the type literal and type code that follow from them. Pure.
//!
//! A literal describes the order and kind of all fields, not their names. Both ends must have the
//! same one, so a dialect is a set of shapes, and nothing about types is written down twice.

use md5::{Digest, Md5};

/// What a value is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Nothing.
    Void,
    /// One byte, 0 or 1.
    Bool,
    /// One byte of text.
    Char,
    /// Signed, 1 byte.
    I8,
    /// Unsigned, 1 byte.
    U8,
    /// Signed, 2 bytes.
    I16,
    /// Unsigned, 2 bytes.
    U16,
    /// Signed, 4 bytes. Enumerations are this, unless they say otherwise.
    I32,
    /// Unsigned, 4 bytes.
    U32,
    /// Signed, 8 bytes.
    I64,
    /// Unsigned, 8 bytes.
    U64,
    /// 4 bytes.
    F32,
    /// 8 bytes.
    F64,
    /// Any bytes.
    Text,
    /// That many of one kind.
    Array(&'static Shape, u32),
    /// Pairs.
    Map(&'static Shape, &'static Shape),
    /// Each once.
    Set(&'static Shape),
    /// Any number of one kind.
    List(&'static Shape),
    /// One or none.
    Optional(&'static Shape),
    /// One of several.
    Variant(&'static [Shape]),
    /// A result, or an error.
    Expected(&'static Shape, &'static Shape),
    /// Fields in order; also the arguments of a function that has several.
    Struct(&'static [Shape]),
    /// Fields of fixed size, with the alignment of the struct.
    Aligned(&'static [Shape], u32),
}

impl Shape {
    /// The type literal, without the zero that ends it on the wire.
    pub fn literal(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    /// The type code: even, since its last bit says on the wire whether more about the type
    /// follows.
    pub fn code(&self) -> u32 {
        md5_head(&self.literal()) & !1
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Shape::I32 => out.push(0x01),
            Shape::U32 => out.push(0x02),
            Shape::I64 => out.push(0x03),
            Shape::U64 => out.push(0x04),
            Shape::I8 => out.push(0x05),
            Shape::U8 => out.push(0x06),
            Shape::I16 => out.push(0x07),
            Shape::U16 => out.push(0x08),
            Shape::Bool => out.push(0x0b),
            Shape::Char => out.push(0x0c),
            Shape::F32 => out.push(0x11),
            Shape::F64 => out.push(0x12),
            Shape::Void => out.push(0xfa),
            Shape::Text => out.extend([0x80, 0x0c]),
            Shape::Array(item, count) => {
                out.push(0x81);
                item.write(out);
                write_size(*count, out);
            }
            Shape::Map(key, value) => write_all(0x82, &[**key, **value], out),
            Shape::Set(item) => write_all(0x83, &[**item], out),
            Shape::List(item) => write_all(0x84, &[**item], out),
            Shape::Optional(item) => write_all(0x85, &[**item], out),
            Shape::Variant(items) => {
                write_all(0x86, items, out);
                out.push(0xff);
            }
            Shape::Expected(value, error) => write_all(0x87, &[**value, **error], out),
            Shape::Struct(fields) => {
                write_all(0xfd, fields, out);
                out.push(0xff);
            }
            Shape::Aligned(fields, alignment) => {
                write_all(0xfd, fields, out);
                // How it is packed and how it is aligned: the same for all that travels.
                write_size(*alignment, out);
                write_size(*alignment, out);
                out.push(0xff);
            }
        }
    }
}

fn write_all(tag: u8, shapes: &[Shape], out: &mut Vec<u8>) {
    out.push(tag);
    for shape in shapes {
        shape.write(out);
    }
}

/// Digits to the base 127, the least first, each one more than its value and the last with its top
/// bit set: no byte is 0, which ends a literal.
fn write_size(mut size: u32, out: &mut Vec<u8>) {
    while size >= 127 {
        out.push((size % 127) as u8 + 1);
        size /= 127;
    }
    out.push(size as u8 + 129);
}

/// The first four bytes of the MD5 of `bytes`, as a big-endian number: the root of type codes and
/// function ids.
pub(super) fn md5_head(bytes: &[u8]) -> u32 {
    let digest = Md5::digest(bytes);
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_codes_known_from_the_wire() {
        assert_eq!(Shape::Text.literal(), [0x80, 0x0c]);
        assert_eq!(Shape::Text.code(), 0x9dcf_fa76);
        let nothing_or_error = Shape::Expected(&Shape::Void, &Shape::I32);
        assert_eq!(nothing_or_error.literal(), [0x87, 0xfa, 0x01]);
        assert_eq!(nothing_or_error.code(), 0xaf28_68cc);
        let uuid = Shape::Aligned(&[Shape::U64, Shape::U64], 8);
        assert_eq!(uuid.literal(), [0xfd, 4, 4, 0x89, 0x89, 0xff]);
    }

    #[test]
    fn sizes_have_no_zero_byte() {
        let written = |size| {
            let mut out = Vec::new();
            write_size(size, &mut out);
            out
        };
        assert_eq!(written(0), [129]);
        assert_eq!(written(126), [255]);
        assert_eq!(written(127), [1, 130]);
        assert_eq!(written(127 * 127), [1, 1, 130]);
        for size in 0..70_000 {
            assert!(!written(size).contains(&0));
        }
    }
}
