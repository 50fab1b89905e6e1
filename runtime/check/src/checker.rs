// SPDX-License-Identifier: Apache-2.0
//! Checks programs and whole images.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;
use trine_rootfs_builder::erofs::ReadError;

use crate::{
    calls::{self, Support},
    files::{Files, Found, ImageFiles},
    object::{Format, OBJECT_MAX},
    reach::{self, Library, Needs},
    report::{Call, Refusal, Report, Undetermined},
};

/// Bytes that tell what a file is.
const HEAD_BYTES: u64 = 512;
/// Scripts that one script may name as its interpreter, as on Linux.
const SCRIPTS_MAX: usize = 4;

/// Why a check could not be made.
#[derive(Debug, Error)]
pub enum CheckError {
    /// A file of this host cannot be read.
    #[error("{action} {path:?}")]
    Host {
        /// What was being done.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The image cannot be read.
    #[error(transparent)]
    Image(#[from] ReadError),
    /// There is no such program.
    #[error("there is no file {path:?}")]
    NotFound {
        /// What was asked for.
        path: PathBuf,
    },
    /// The file is not a program.
    #[error("{path:?} is neither an ELF program nor a script")]
    NotAProgram {
        /// What was asked for.
        path: PathBuf,
    },
}

/// Checks programs of a root, and sums up what they need.
#[derive(Debug)]
pub struct Checker<F> {
    files: F,
    library: Library,
    programs: BTreeSet<PathBuf>,
    refused: Vec<Refusal>,
    needed: BTreeMap<u32, BTreeSet<PathBuf>>,
    unknown: BTreeSet<(PathBuf, u64)>,
    loads: usize,
    notes: Vec<String>,
}

impl<F: Files> Checker<F> {
    /// Begins a check of programs that find their libraries in `files`.
    pub fn new(files: F) -> Self {
        Self {
            files,
            library: Library::default(),
            programs: BTreeSet::new(),
            refused: Vec::new(),
            needed: BTreeMap::new(),
            unknown: BTreeSet::new(),
            loads: 0,
            notes: Vec::new(),
        }
    }

    /// Checks one program, or the interpreter of a script.
    ///
    /// # Errors
    /// It is not there, is no program, or a file cannot be read.
    pub fn program(&mut self, path: &Path) -> Result<(), CheckError> {
        let mut path = path.to_owned();
        for _ in 0..SCRIPTS_MAX {
            let not_found = || CheckError::NotFound { path: path.clone() };
            let found = self.files.find(&path)?.ok_or_else(not_found)?;
            match Format::of(&self.files.read(&found, HEAD_BYTES)?) {
                Format::Elf => return self.elf(&found),
                Format::Foreign(machine) => {
                    self.refuse(&found.path, &format!("it is for {machine}, not for x86-64"));
                    return Ok(());
                }
                Format::Script(interpreter) => {
                    if self.files.find(&interpreter)?.is_none() {
                        self.refuse_interpreter(&found.path, &interpreter);
                        return Ok(());
                    }
                    self.notes.push(format!(
                        "{} is a script: what is checked is {}, not what the script starts",
                        found.path.display(),
                        interpreter.display()
                    ));
                    path = interpreter;
                }
                Format::Other => return Err(CheckError::NotAProgram { path: found.path }),
            }
        }
        self.refuse(&path, "its interpreter is a script, whose interpreter is one, and so on");
        Ok(())
    }

    fn refuse(&mut self, path: &Path, reason: &str) {
        self.programs.insert(path.to_owned());
        self.refused.push(Refusal { path: path.to_owned(), reason: reason.to_owned() });
    }

    fn refuse_interpreter(&mut self, path: &Path, interpreter: &Path) {
        self.refuse(path, &format!("its interpreter {} is not there", interpreter.display()));
    }

    /// Checks an ELF file as a program.
    fn elf(&mut self, found: &Found) -> Result<(), CheckError> {
        if !self.programs.insert(found.path.clone()) {
            return Ok(());
        }
        if found.size > OBJECT_MAX {
            self.notes.push(format!("{} is too large to be checked", found.path.display()));
            return Ok(());
        }
        let Some(object) = self.library.object(&self.files, found)? else {
            self.refuse(&found.path, "it is a damaged ELF file");
            return Ok(());
        };
        if let Some(interpreter) = &object.interpreter
            && self.files.find(interpreter)?.is_none()
        {
            self.refuse_interpreter(&found.path, interpreter);
        }
        let needs = reach::needs(&mut self.library, &self.files, object)?;
        self.add(&found.path, needs);
        Ok(())
    }

    fn add(&mut self, path: &Path, needs: Needs) {
        for number in needs.calls {
            self.needed.entry(number).or_default().insert(path.to_owned());
        }
        self.unknown.extend(needs.unknown);
        self.loads += usize::from(needs.loads);
        if !needs.missing.is_empty() {
            let missing: Vec<_> = needs.missing.into_iter().collect();
            let (path, missing) = (path.display(), missing.join(", "));
            self.notes.push(format!("{path}: libraries that are not there: {missing}"));
        }
    }

    /// Ends the check.
    pub fn finish(mut self) -> Report {
        let mut report = Report { programs: self.programs.len(), ..Report::default() };
        for (number, needed_by) in self.needed {
            let name = calls::name(number).unwrap_or("unknown");
            let call =
                |missing: &str| Call { number, name, missing: missing.to_owned(), needed_by };
            match calls::support(number) {
                Support::Full => report.full.push(name),
                Support::Partial(missing) => report.partial.push(call(missing)),
                Support::None("") => report.lacking.push(call("it fails with ENOSYS")),
                Support::None(missing) => report.lacking.push(call(missing)),
            }
        }
        let mut sites: BTreeMap<PathBuf, usize> = BTreeMap::new();
        for (path, _) in self.unknown {
            *sites.entry(path).or_default() += 1;
        }
        let undetermined = sites.into_iter().map(|(path, sites)| Undetermined { path, sites });
        report.undetermined = undetermined.collect();
        if self.loads > 0 {
            self.notes.push(format!(
                "{} of the programs can load libraries by name (dlopen), which were not followed",
                self.loads
            ));
        }
        (report.refused, report.notes) = (self.refused, self.notes);
        report
    }
}

impl Checker<ImageFiles> {
    /// Checks everything in an image: its programs, and libraries that no program names, as they are
    /// there to be loaded at run time.
    ///
    /// # Errors
    /// The image cannot be read or is damaged.
    pub fn image(&mut self) -> Result<(), CheckError> {
        let mut libraries = Vec::new();
        let mut scripts = BTreeMap::<PathBuf, usize>::new();
        for found in self.files.all() {
            match Format::of(&self.files.read(&found, HEAD_BYTES)?) {
                Format::Elf if found.size <= OBJECT_MAX => {
                    let Some(object) = self.library.object(&self.files, &found)? else { continue };
                    // The C library can be executed, too.
                    if !object.is_program || is_library(&found.path) {
                        libraries.push(found);
                    } else if found.executable {
                        self.elf(&found)?;
                    }
                }
                Format::Foreign(machine) if found.executable && !is_library(&found.path) => {
                    self.refuse(&found.path, &format!("it is for {machine}, not for x86-64"));
                }
                Format::Script(interpreter)
                    if found.executable && self.files.find(&interpreter)?.is_none() =>
                {
                    *scripts.entry(interpreter).or_default() += 1;
                }
                _ => {}
            }
        }
        // What programs name was followed from there.
        for found in libraries {
            if !self.library.is_named(&found.path) {
                self.elf(&found)?;
            }
        }
        for (interpreter, count) in scripts {
            let interpreter = interpreter.display();
            let are = if count == 1 { "1 script wants" } else { &format!("{count} scripts want") };
            self.notes.push(format!("{are} {interpreter}, which is not in the image"));
        }
        Ok(())
    }
}

/// Whether a file is named as a library is.
fn is_library(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().contains(".so"))
}
