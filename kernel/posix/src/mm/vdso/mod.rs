// SPDX-License-Identifier: Apache-2.0
//! The vDSO: a page of code that answers clock reads, and the page of data before it.  Source and
//! build command: `vdso.S`.

use alloc::{vec, vec::Vec};

use trine_machine::{Frame, Page};

use super::{Mm, PAGE_SIZE, Protection};
use crate::{Errno, kernel::TscClock, services::Services};

/// The ELF image, built from `vdso.S`.
const IMAGE: &[u8] = include_bytes!("vdso.so");

const _: () = assert!(IMAGE.len() <= PAGE_SIZE as usize);

/// The pages of the vDSO, which every memory maps: data, then code.
#[derive(Debug)]
pub struct Vdso {
    pages: Vec<Page>,
}

impl Vdso {
    /// Makes the pages; `None` if the TSC is no clock, or no frame is free.
    pub(crate) fn new(services: &Services, clock: &TscClock) -> Option<Self> {
        if clock.mult == 0 {
            return None;
        }
        let data = Frame::zeroed(services.arena)?;
        let words = [clock.tsc_base, clock.mult, clock.base_ns, services.realtime_offset_ns];
        for (index, word) in words.into_iter().enumerate() {
            data.write(index * 8, &word.to_le_bytes());
        }
        let code = Frame::zeroed(services.arena)?;
        code.write(0, IMAGE);
        Some(Self { pages: vec![Page::Frame(data), Page::Frame(code)] })
    }

    /// Maps the pages; returns where the code is.
    pub(crate) fn map(&self, mm: &Mm) -> Result<u64, Errno> {
        let bytes = self.pages.len() as u64 * PAGE_SIZE;
        let base = mm.layout.lock().mmap_base;
        let start = mm.areas.lock().find_free(bytes, base).ok_or(Errno::NOMEM)?;
        mm.map_fixed_pages(start, &self.pages[..1], Protection::from_bits(1), "[vvar]")?;
        let code = start + PAGE_SIZE;
        mm.map_fixed_pages(code, &self.pages[1..], Protection::from_bits(5), "[vdso]")?;
        Ok(code)
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, process::Command, vec::Vec};

    use super::IMAGE;

    fn word(image: &[u8], at: usize) -> usize {
        usize::from_le_bytes(image[at..at + 8].try_into().expect("eight bytes"))
    }

    /// The exported functions with their names, from the dynamic symbols.  The displacements of
    /// RIP-relative addresses are blanked: they depend on the linker's layout.
    fn functions(image: &[u8]) -> Vec<(String, Vec<u8>)> {
        let (table, count) = (word(image, 40), usize::from(image[60]));
        let section = |kind: u32| {
            (0..count)
                .map(|index| table + index * 64)
                .find(|&at| image[at + 4..at + 8] == kind.to_le_bytes())
                .map(|at| (word(image, at + 24), word(image, at + 32)))
                .expect("the section")
        };
        let ((symbols, bytes), (strings, _)) = (section(11), section(3));
        let mut found = Vec::new();
        for at in (symbols..symbols + bytes).step_by(24) {
            let name_at = strings + image[at] as usize;
            let name = image[name_at..].split(|&byte| byte == 0).next().expect("a name");
            let (value, size) = (word(image, at + 8), word(image, at + 16));
            let mut code = image[value..value + size].to_vec();
            while let Some(lea) = code.windows(3).position(|bytes| bytes == [0x4c, 0x8d, 0x05]) {
                code[lea..lea + 7].fill(0);
            }
            found.push((String::from_utf8(name.to_vec()).expect("ascii"), code));
        }
        found.sort();
        found
    }

    #[test]
    fn image_exports_the_functions_of_linux() {
        let names: Vec<String> = functions(IMAGE).into_iter().map(|entry| entry.0).collect();
        for name in ["clock_gettime", "clock_getres", "gettimeofday", "time", "getcpu"] {
            assert!(names.contains(&name.into()), "{name}");
            assert!(names.contains(&format!("__vdso_{name}")), "{name}");
        }
        assert!(names.contains(&"LINUX_2.6".into()));
    }

    #[test]
    fn image_is_what_the_source_says() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/mm/vdso");
        let output = std::env::temp_dir().join(format!("vdso-{}.so", std::process::id()));
        let options = "-nostdlib -shared -s -Wl,-T,vdso.lds -Wl,--hash-style=both \
                       -Wl,--build-id=none -Wl,-soname,linux-vdso.so.1 \
                       -Wl,-z,max-page-size=4096 -Wl,-z,noexecstack vdso.S -o";
        let built = Command::new("gcc")
            .current_dir(dir)
            .args(options.split_whitespace())
            .arg(&output)
            .status();
        let Ok(status) = built else {
            eprintln!("no gcc here: the image was not compared with its source");
            return;
        };
        assert!(status.success());
        let image = std::fs::read(&output).expect("built");
        std::fs::remove_file(&output).expect("ours");
        assert_eq!(functions(&image), functions(IMAGE));
    }
}
