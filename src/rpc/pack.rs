//! Values to bytes and back, in upstream's packed form. Pure.
//!
//! A body begins with the code of its type, usually followed by the whole literal, and says once
//! how wide all its lengths are. What is written has the literal, as upstream has it; what is read
//! may have it or not, any width, and bytes behind the last field. Nothing is allocated by a count
//! before the bytes left were seen to be enough for it.

use smallvec::SmallVec;

use super::shape::Shape;

/// Bit of the first word: a byte about the form follows.
const HAS_FORM: u32 = 1;
/// Bit of the form: the literal follows.
const HAS_LITERAL: u8 = 1 << 2;

/// Bytes that do not follow the shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// What is wrong.
    pub what: &'static str,
    /// Where, in bytes from the start of what was read.
    pub at: usize,
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at byte {}", self.what, self.at)
    }
}

impl std::error::Error for Malformed {}

/// A shape with what is computed from it.
#[derive(Clone, Debug)]
pub struct Typed {
    code: u32,
    /// With the zero at its end.
    literal: Vec<u8>,
}

impl Typed {
    /// Computes.
    pub fn of(shape: &Shape) -> Typed {
        let mut literal = shape.literal();
        literal.push(0);
        Typed { code: shape.code(), literal }
    }

    /// The type code; even.
    pub fn code(&self) -> u32 {
        self.code
    }

    /// The literal.
    pub fn literal(&self) -> &[u8] {
        &self.literal[..self.literal.len() - 1]
    }
}

/// The type code of a body, if it is long enough to have one.
pub fn code_of(body: &[u8]) -> Option<u32> {
    body.first_chunk().map(|head| u32::from_le_bytes(*head) & !HAS_FORM)
}

/// Appends a body. `write` is called once for each width that has to be tried, and must do the
/// same each time.
pub fn encode(typed: &Typed, out: &mut Vec<u8>, write: impl Fn(&mut Writer<'_>)) {
    encode_from(typed, 0, out, write);
}

/// The same for a body of which one length is known before: narrower widths are not tried.
pub fn encode_from(
    typed: &Typed,
    length: usize,
    out: &mut Vec<u8>,
    write: impl Fn(&mut Writer<'_>),
) {
    let start = out.len();
    let mut width = width_of(length);
    loop {
        out.extend_from_slice(&(typed.code | HAS_FORM).to_le_bytes());
        out.push(HAS_LITERAL | width << 3);
        out.extend_from_slice(&typed.literal);
        let mut writer = Writer { out, width, longest: 0, fits: true };
        write(&mut writer);
        if writer.fits {
            return;
        }
        width = width_of(writer.longest);
        out.truncate(start);
    }
}

/// Appends fields without a type before them, with lengths of four bytes: the native form. A length
/// that four bytes cannot hold spoils the body; no frame could carry it anyway.
pub fn encode_plain(out: &mut Vec<u8>, write: impl FnOnce(&mut Writer<'_>)) {
    write(&mut Writer { out, width: PLAIN_WIDTH, longest: 0, fits: true });
}

/// Reads what [`encode_plain`] wrote.
pub fn decode_plain(body: &[u8]) -> Reader<'_> {
    Reader { bytes: body, at: 0, width: PLAIN_WIDTH }
}

const PLAIN_WIDTH: u8 = 2;

/// The number for the width of a length: 1, 2, 4 or 8 bytes.
fn width_of(length: usize) -> u8 {
    match length {
        0..=0xff => 0,
        0x100..=0xffff => 1,
        0x1_0000..=0xffff_ffff => 2,
        _ => 3,
    }
}

/// Where fields are written, in order.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    width: u8,
    longest: usize,
    /// False once a length did not fit: from then on only lengths are looked at.
    fits: bool,
}

impl Writer<'_> {
    #[inline]
    fn raw(&mut self, bytes: &[u8]) {
        if self.fits {
            self.out.extend_from_slice(bytes);
        }
    }

    /// One byte.
    #[inline]
    pub fn u8(&mut self, value: u8) {
        self.raw(&[value]);
    }

    /// Some fields together that are never anything but these bytes.
    #[inline]
    pub fn fixed<const N: usize>(&mut self, bytes: [u8; N]) {
        self.raw(&bytes);
    }

    /// A truth, also the mark before a result or an option.
    #[inline]
    pub fn bool(&mut self, value: bool) {
        self.raw(&[value.into()]);
    }

    /// Four bytes, signed.
    #[inline]
    pub fn i32(&mut self, value: i32) {
        self.raw(&value.to_le_bytes());
    }

    /// Two bytes.
    pub fn u16(&mut self, value: u16) {
        self.raw(&value.to_le_bytes());
    }

    /// Four bytes.
    pub fn u32(&mut self, value: u32) {
        self.raw(&value.to_le_bytes());
    }

    /// Eight bytes, signed.
    pub fn i64(&mut self, value: i64) {
        self.raw(&value.to_le_bytes());
    }

    /// Eight bytes.
    #[inline]
    pub fn u64(&mut self, value: u64) {
        self.raw(&value.to_le_bytes());
    }

    /// How many elements follow.
    #[inline]
    pub fn count(&mut self, count: usize) {
        self.longest = self.longest.max(count);
        self.fits &= width_of(count) <= self.width;
        // The narrow ones are nearly all, and a copy of a length that is known is one store.
        match self.width {
            0 => self.raw(&[count as u8]),
            1 => self.raw(&(count as u16).to_le_bytes()),
            2 => self.raw(&(count as u32).to_le_bytes()),
            _ => self.raw(&(count as u64).to_le_bytes()),
        }
    }

    /// A string.
    #[inline]
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.raw(bytes);
    }

    /// A list.
    pub fn list<T>(&mut self, items: &[T], each: impl Fn(&mut Self, &T)) {
        self.count(items.len());
        for item in items {
            each(self, item);
        }
    }
}

/// Looks at the type of a body and gives back a reader at its first field.
pub fn decode<'a>(typed: &Typed, body: &'a [u8]) -> Result<Reader<'a>, Malformed> {
    let mut reader = Reader { bytes: body, at: 0, width: 0 };
    let head = u32::from_le_bytes(reader.chunk()?);
    if head & !HAS_FORM != typed.code {
        return Err(Malformed { what: "another type", at: 0 });
    }
    if head & HAS_FORM != 0 {
        let form = reader.u8()?;
        // The other bits announce fields that no type of these dialects has.
        if form & !(HAS_LITERAL | 3 << 3) != 0 {
            return Err(Malformed { what: "unknown form", at: 4 });
        }
        reader.width = form >> 3;
        if form & HAS_LITERAL != 0 && reader.take(typed.literal.len())? != typed.literal {
            return Err(Malformed { what: "another type literal", at: 5 });
        }
    }
    Ok(reader)
}

/// Where fields are read, in order.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    width: u8,
}

impl<'a> Reader<'a> {
    /// A complaint about the present place.
    pub fn wrong(&self, what: &'static str) -> Malformed {
        Malformed { what, at: self.at }
    }

    #[inline]
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let rest = &self.bytes[self.at..];
        let Some(taken) = rest.get(..count) else {
            return Err(self.wrong("the bytes end too early"));
        };
        self.at += count;
        Ok(taken)
    }

    #[inline]
    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let mut chunk = [0; N];
        chunk.copy_from_slice(self.take(N)?);
        Ok(chunk)
    }

    /// Bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// One byte.
    #[inline]
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.chunk::<1>()?[0])
    }

    /// A truth; like upstream, any byte but 0 is true.
    pub fn bool(&mut self) -> Result<bool, Malformed> {
        Ok(self.u8()? != 0)
    }

    /// The mark before a result or an option, which is 0 or 1.
    pub fn flag(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.wrong("a mark is neither 0 nor 1")),
        }
    }

    /// Four bytes, signed.
    pub fn i32(&mut self) -> Result<i32, Malformed> {
        Ok(i32::from_le_bytes(self.chunk()?))
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.chunk()?))
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.chunk()?))
    }

    /// Eight bytes, signed.
    pub fn i64(&mut self) -> Result<i64, Malformed> {
        Ok(i64::from_le_bytes(self.chunk()?))
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.chunk()?))
    }

    /// How many elements follow, each of at least `bytes_min` bytes, which is not 0.
    #[inline]
    pub fn count(&mut self, bytes_min: usize) -> Result<usize, Malformed> {
        let count = match self.width {
            0 => u64::from(self.u8()?),
            1 => u64::from(self.u16()?),
            2 => u64::from(self.u32()?),
            _ => self.u64()?,
        };
        let most = self.remaining() / bytes_min.max(1);
        match usize::try_from(count) {
            Ok(count) if count <= most => Ok(count),
            _ => Err(self.wrong("a count is larger than the bytes that follow")),
        }
    }

    /// A string.
    #[inline]
    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let count = self.count(1)?;
        self.take(count)
    }

    /// A string that people read. Names that are not UTF-8 are none of any host; they are kept as
    /// well as they can be, so that one bad name does not spoil the list it stands in.
    pub fn text(&mut self) -> Result<String, Malformed> {
        Ok(String::from_utf8_lossy(self.bytes()?).into_owned())
    }

    /// A list of strings, where they lie.
    pub fn strings(&mut self) -> Result<SmallVec<[&'a [u8]; 16]>, Malformed> {
        let count = self.count(1 << self.width)?;
        // As in `list`.
        let reserved = self.remaining() / std::mem::size_of::<&[u8]>() + 4;
        let mut strings = SmallVec::with_capacity(count.min(reserved));
        for _ in 0..count {
            strings.push(self.bytes()?);
        }
        Ok(strings)
    }

    /// A list whose elements have at least `bytes_min` bytes, not counting the lengths in them.
    pub fn list<T>(
        &mut self,
        lengths: usize,
        bytes_min: usize,
        mut each: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = self.count((lengths << self.width) + bytes_min)?;
        // A hostile list of small elements must not reserve many times its own bytes at once.
        let reserved = count.min(self.remaining() / std::mem::size_of::<T>().max(1) + 4);
        let mut items = Vec::with_capacity(reserved.min(count));
        for _ in 0..count {
            items.push(each(self)?);
        }
        Ok(items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(lengths: &[usize]) -> Vec<u8> {
        let typed = Typed::of(&Shape::List(&Shape::Text));
        let mut out = Vec::new();
        let items: Vec<Vec<u8>> = lengths.iter().map(|length| vec![7; *length]).collect();
        encode(&typed, &mut out, |writer| writer.list(&items, |w, item| w.bytes(item)));
        let mut reader = decode(&typed, &out).unwrap();
        let again = reader.list(1, 0, |r| r.bytes().map(<[u8]>::to_vec)).unwrap();
        assert_eq!(again, items);
        assert_eq!(reader.remaining(), 0);
        out
    }

    #[test]
    fn one_width_for_all_lengths() {
        let head = 4 + 1 + 4;
        assert_eq!(body(&[]).len(), head + 1);
        assert_eq!(body(&[255, 1]).len(), head + 3 + 256);
        assert_eq!(body(&[1, 256]).len(), head + 3 * 2 + 257);
        assert_eq!(body(&[0; 300]).len(), head + 301 * 2);
        assert_eq!(body(&[65_536]).len(), head + 2 * 4 + 65_536);
    }

    #[test]
    fn all_forms_are_read() {
        let typed = Typed::of(&Shape::Text);
        let code = typed.code();
        let read = |body: &[u8]| decode(&typed, body)?.bytes().map(<[u8]>::to_vec);
        let with = |head: u32, rest: &[u8]| [&head.to_le_bytes()[..], rest].concat();
        assert_eq!(read(&with(code, b"\x01x and more")).unwrap(), b"x");
        assert_eq!(read(&with(code | 1, b"\x00\x01x")).unwrap(), b"x");
        assert_eq!(read(&with(code | 1, b"\x08\x01\0x")).unwrap(), b"x");
        assert_eq!(read(&with(code | 1, b"\x18\x01\0\0\0\0\0\0\0x")).unwrap(), b"x");
        assert_eq!(read(&with(code | 1, b"\x14\x80\x0c\0\x01\0\0\0x")).unwrap(), b"x");
        assert_eq!(read(&with(code | 1, b"\x14\x80\x0b\0\x01\0\0\0x")).unwrap_err().at, 5);
        assert_eq!(read(&with(code | 1, b"\x01\x01x")).unwrap_err().at, 4);
        assert_eq!(read(&with(code ^ 2, b"\x01x")).unwrap_err().at, 0);
        assert!(read(&with(code, b"\x02x")).is_err());
        assert!(read(&with(code | 1, b"\x18\xff\xff\xff\xff\xff\xff\xff\xffx")).is_err());
        assert!(read(&[]).is_err());
    }
}
