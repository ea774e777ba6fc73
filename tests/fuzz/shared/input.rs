//! The bytes of one fuzz input as decisions and data. Each crate with targets includes this file as a module, so that
//! none needs another crate's test code.

/// Reads an input from its front. Past its end come zeros, so that every input is a whole story and a mutation that
/// shortens one does not change its beginning.
#[derive(Clone, Debug)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// The whole input.
    pub const fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// Whether everything is read.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte: a choice.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// The next two bytes as a number, the higher first.
    pub fn number(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// The next `len` bytes, fewer at the end.
    pub fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Bytes with their length in front: one byte, or two if the first is 255.
    pub fn chunk(&mut self) -> &'a [u8] {
        let len = match self.byte() {
            255 => self.number().into(),
            len => len.into(),
        };
        self.take(len)
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.0)
    }

    /// The input of which [`chunk`](Self::chunk) reads these chunks, behind `before`.
    pub fn with_chunks(before: &[u8], chunks: &[&[u8]]) -> Vec<u8> {
        let mut out = before.to_vec();
        for chunk in chunks {
            match u8::try_from(chunk.len()) {
                Ok(len) if len < 255 => out.push(len),
                _ => {
                    out.push(255);
                    out.extend(u16::try_from(chunk.len()).expect("a seed is short").to_be_bytes());
                }
            }
            out.extend_from_slice(chunk);
        }
        out
    }
}
