// SPDX-License-Identifier: Apache-2.0
//! ELF files, made for tests.

/// One program header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) kind: u32,
    pub(crate) flags: u32,
    pub(crate) offset: u64,
    pub(crate) address: u64,
    pub(crate) file_bytes: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) align: u64,
}

/// What to put in a file.
#[derive(Clone, Debug)]
pub(crate) struct Builder {
    pub(crate) kind: u16,
    pub(crate) machine: u16,
    pub(crate) entry: u64,
    pub(crate) headers: Vec<Header>,
    pub(crate) interpreter: Option<Vec<u8>>,
    pub(crate) contents: Vec<u8>,
}

impl Builder {
    /// A static program: one page of code at 0x40_0000, one page of data and a page of bss above.
    pub(crate) fn small() -> Self {
        let mut contents = vec![0; 0x2000];
        contents[0x1000..0x1008].copy_from_slice(b"datadata");
        Self {
            kind: 2,
            machine: 62,
            entry: 0x40_0200,
            headers: vec![
                Header {
                    kind: 1,
                    flags: 5,
                    offset: 0,
                    address: 0x40_0000,
                    file_bytes: 0x1000,
                    memory_bytes: 0x1000,
                    align: 0x1000,
                },
                Header {
                    kind: 1,
                    flags: 6,
                    offset: 0x1000,
                    address: 0x40_1000,
                    file_bytes: 0x800,
                    memory_bytes: 0x2000,
                    align: 0x1000,
                },
            ],
            interpreter: None,
            contents,
        }
    }

    /// The same, position-independent.
    pub(crate) fn pie() -> Self {
        let mut builder = Self::small();
        builder.kind = 3;
        builder.entry -= 0x40_0000;
        for header in &mut builder.headers {
            header.address -= 0x40_0000;
        }
        builder
    }

    /// With an interpreter.
    pub(crate) fn with_interpreter(mut self, path: &str) -> Self {
        self.interpreter = Some([path.as_bytes(), b"\0"].concat());
        self
    }

    /// The file.
    pub(crate) fn build(&self) -> Vec<u8> {
        let mut file = self.contents.clone();
        let mut headers = self.headers.clone();
        if let Some(path) = &self.interpreter {
            file[0x600..0x600 + path.len()].copy_from_slice(path);
            headers.push(Header {
                kind: 3,
                flags: 4,
                offset: 0x600,
                address: 0x600,
                file_bytes: path.len() as u64,
                memory_bytes: path.len() as u64,
                align: 1,
            });
        }
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"\x7fELF\x02\x01\x01");
        put(16, &self.kind.to_le_bytes());
        put(18, &self.machine.to_le_bytes());
        put(20, &1_u32.to_le_bytes());
        put(24, &self.entry.to_le_bytes());
        put(32, &64_u64.to_le_bytes());
        put(52, &64_u16.to_le_bytes());
        put(54, &56_u16.to_le_bytes());
        put(56, &(headers.len() as u16).to_le_bytes());
        for (index, header) in headers.iter().enumerate() {
            let at = 64 + 56 * index;
            put(at, &header.kind.to_le_bytes());
            put(at + 4, &header.flags.to_le_bytes());
            let words = [
                header.offset,
                header.address,
                header.address,
                header.file_bytes,
                header.memory_bytes,
                header.align,
            ];
            for (word, value) in words.into_iter().enumerate() {
                put(at + 8 + 8 * word, &value.to_le_bytes());
            }
        }
        file
    }
}
