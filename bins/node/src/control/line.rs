//! Lines of bounded length.

use std::io;
use thiserror::Error;
use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// Why there is no line.
#[derive(Debug, Error)]
pub enum LineError {
    /// It is longer than permitted: the other side's fault.
    #[error("a line of more than {0} bytes")]
    TooLong(usize),
    /// The stream ended in the middle of it.
    #[error("the stream ended within a line")]
    Cut,
    /// The stream broke.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads lines of bounded length from a stream.
#[derive(Debug)]
pub struct LineReader<R> {
    reader: R,
    line: Vec<u8>,
    /// The line was given out.
    given: bool,
    max: usize,
}

impl<R: AsyncBufRead + Unpin> LineReader<R> {
    /// Lines of at most `max` bytes, not counting their ends.
    pub const fn new(reader: R, max: usize) -> Self {
        Self { reader, line: Vec::new(), given: false, max }
    }

    /// The next line without its end; `None` at the end of the stream. Safe to cancel: what was read of a line is kept.
    ///
    /// # Errors
    /// [`LineError`]; the stream is of no use afterwards.
    pub async fn next(&mut self) -> Result<Option<&[u8]>, LineError> {
        if self.given {
            self.line.clear();
            self.given = false;
        }
        loop {
            let bytes = self.reader.fill_buf().await?;
            if bytes.is_empty() {
                return if self.line.is_empty() { Ok(None) } else { Err(LineError::Cut) };
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let part = &bytes[..end.unwrap_or(bytes.len())];
            if self.line.len() + part.len() > self.max {
                return Err(LineError::TooLong(self.max));
            }
            self.line.extend_from_slice(part);
            let taken = part.len() + usize::from(end.is_some());
            self.reader.consume(taken);
            if end.is_some() {
                self.given = true;
                return Ok(Some(&self.line));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_end_where_they_end_and_a_long_or_cut_one_is_an_error() {
        let mut lines = LineReader::new(&b"ab\n\nabcd\nabcde\n"[..], 4);
        assert_eq!(lines.next().await.expect("a line"), Some(&b"ab"[..]));
        assert_eq!(lines.next().await.expect("a line"), Some(&b""[..]));
        assert_eq!(lines.next().await.expect("a line"), Some(&b"abcd"[..]));
        assert!(matches!(lines.next().await, Err(LineError::TooLong(4))));
        let mut lines = LineReader::new(&b"ab\ncd"[..], 4);
        lines.next().await.expect("a line");
        assert!(matches!(lines.next().await, Err(LineError::Cut)));
        assert!(matches!(LineReader::new(&b""[..], 4).next().await, Ok(None)));
    }
}
