// SPDX-License-Identifier: Apache-2.0
//! Which code of its libraries a program reaches, and which system calls are there.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::{Path, PathBuf},
    rc::Rc,
};

use iced_x86::Register;

use crate::{
    checker::CheckError,
    code::How,
    files::{Files, Found},
    object::{Format, OBJECT_MAX, Object},
    trace::Origins,
};

/// Where the dynamic linker looks on Debian and elsewhere, after its configuration.
const DIRECTORIES: [&str; 9] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
    "/usr/local/lib",
    "/usr/local/lib64",
    "/opt/lib",
];
const CONFIGURATION: [&str; 2] = ["/etc/ld.so.conf.d", "/etc/ld-musl-x86_64.path"];
/// Objects that hand a number on to each other before it is given up.
const DEPTH_MAX: usize = 8;

/// What one program needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Numbers of system calls.
    pub(crate) calls: BTreeSet<u32>,
    /// Instructions where a number comes from that could not be found: object, address.
    pub(crate) unknown: BTreeSet<(PathBuf, u64)>,
    /// Libraries that are not there.
    pub(crate) missing: BTreeSet<String>,
    /// It loads libraries that it names at run time.
    pub(crate) loads: bool,
}

/// Objects that were read before.
#[derive(Debug, Default)]
pub(crate) struct Library {
    objects: HashMap<PathBuf, Option<Rc<Object>>>,
    directories: Option<Vec<PathBuf>>,
    /// Libraries that some program names, or a library of one.
    named: HashSet<PathBuf>,
    /// By object and address: what is in a register there.
    origins: HashMap<(PathBuf, u64, Register), Rc<Origins>>,
}

impl Library {
    /// Reads an object; `None` if it is none for x86-64.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn object(
        &mut self,
        files: &dyn Files,
        found: &Found,
    ) -> Result<Option<Rc<Object>>, CheckError> {
        if let Some(known) = self.objects.get(&found.path) {
            return Ok(known.clone());
        }
        let data = files.read(found, OBJECT_MAX)?;
        let object = match Format::of(&data) {
            Format::Elf => Object::parse(found.path.clone(), &data).ok().map(Rc::new),
            _ => None,
        };
        self.objects.insert(found.path.clone(), object.clone());
        Ok(object)
    }

    /// Whether some program that was looked at names a library.
    pub(crate) fn is_named(&self, path: &Path) -> bool {
        self.named.contains(path)
    }

    /// Finds a library that an object names.
    fn find(
        &mut self,
        files: &dyn Files,
        user: &Object,
        name: &str,
    ) -> Result<Option<Rc<Object>>, CheckError> {
        let origin = user.path.parent().unwrap_or(Path::new("/")).to_string_lossy().into_owned();
        let own = user.run_paths.iter().map(|path| {
            PathBuf::from(path.replace("$ORIGIN", &origin).replace("${ORIGIN}", &origin))
        });
        let mut candidates: Vec<PathBuf> = own.collect();
        if name.contains('/') {
            candidates = vec![PathBuf::new()];
        } else {
            candidates.extend_from_slice(self.directories(files)?);
        }
        for directory in candidates {
            if let Some(found) = files.find(&directory.join(name))?
                && let Some(object) = self.object(files, &found)?
            {
                self.named.insert(found.path);
                return Ok(Some(object));
            }
        }
        Ok(None)
    }

    fn directories(&mut self, files: &dyn Files) -> Result<&[PathBuf], CheckError> {
        if self.directories.is_none() {
            let mut directories = Vec::new();
            let [configured, musl] = CONFIGURATION.map(Path::new);
            let pages = files.names(configured).into_iter().chain([musl.to_owned()]);
            for page in pages {
                let Some(found) = files.find(&page)? else { continue };
                let text = files.read(&found, 1 << 20)?;
                let text = String::from_utf8_lossy(&text).into_owned();
                let lines = text.split(['\n', ':']).map(str::trim);
                let paths = lines.filter(|line| line.starts_with('/'));
                directories.extend(paths.map(PathBuf::from));
            }
            directories.extend(DIRECTORIES.map(PathBuf::from));
            self.directories = Some(directories);
        }
        Ok(self.directories.as_deref().unwrap_or_default())
    }

    fn origins(&mut self, object: &Object, at: u64, register: Register) -> Rc<Origins> {
        let key = (object.path.clone(), at, register);
        let found = self.origins.entry(key);
        Rc::clone(found.or_insert_with(|| Rc::new(object.code.origins(at, register))))
    }
}

/// The objects of one program, and what of them is reached.
struct Closure {
    objects: Vec<Rc<Object>>,
    /// Functions that are reached, by object.
    reached: HashSet<(usize, u64)>,
    todo: Vec<(usize, u64)>,
    sites: BTreeSet<(usize, u64)>,
    asked: HashSet<String>,
}

/// Finds what a program needs, with all of its own code and what that reaches of its libraries.
///
/// # Errors
/// A file cannot be read.
pub(crate) fn needs(
    library: &mut Library,
    files: &dyn Files,
    program: Rc<Object>,
) -> Result<Needs, CheckError> {
    let mut needs = Needs { loads: program.imports.contains("dlopen"), ..Needs::default() };
    let mut objects = vec![Rc::clone(&program)];
    if let Some(path) = &program.interpreter
        && let Some(found) = files.find(path)?
    {
        objects.extend(library.object(files, &found)?);
        library.named.insert(found.path);
    }
    let mut next = 0;
    while let Some(user) = objects.get(next).cloned() {
        next += 1;
        for name in &user.needed {
            match library.find(files, &user, name)? {
                Some(object) if !objects.iter().any(|known| known.path == object.path) => {
                    objects.push(object);
                }
                Some(_) => {}
                None => {
                    needs.missing.insert(name.clone());
                }
            }
        }
    }

    let mut closure = Closure {
        objects,
        reached: HashSet::new(),
        todo: Vec::new(),
        sites: BTreeSet::new(),
        asked: HashSet::new(),
    };
    closure.sites.extend(program.code.sites().iter().map(|&site| (0, site)));
    for name in &program.imports {
        closure.ask(name);
    }
    for index in 1..closure.objects.len() {
        let object = Rc::clone(&closure.objects[index]);
        for &start in &object.init {
            closure.reach(index, start);
        }
    }
    closure.run();
    closure.collect(library, &mut needs);
    Ok(needs)
}

impl Closure {
    /// Reaches a function by name.
    fn ask(&mut self, name: &str) {
        if !self.asked.insert(name.to_owned()) {
            return;
        }
        for index in 0..self.objects.len() {
            let object = Rc::clone(&self.objects[index]);
            if let Some(starts) = object.exports.get(name) {
                for &start in starts {
                    self.reach(index, start);
                }
                return;
            }
        }
    }

    fn reach(&mut self, index: usize, at: u64) {
        let start = self.objects[index].code.function_of(at).0;
        if self.reached.insert((index, start)) {
            self.todo.push((index, start));
        }
    }

    fn run(&mut self) {
        while let Some((index, start)) = self.todo.pop() {
            let object = Rc::clone(&self.objects[index]);
            let range = object.code.function_of(start);
            self.sites.extend(object.code.sites_in(range).iter().map(|&site| (index, site)));
            for edge in object.code.edges_from(range) {
                if !(range.0..range.1).contains(&edge.to) {
                    self.reach(index, edge.to);
                }
            }
            for (name, _) in object.code.uses_in(range) {
                self.ask(name);
            }
        }
    }

    /// Finds the numbers at all sites that are reached.
    fn collect(&self, library: &mut Library, needs: &mut Needs) {
        let mut asked = BTreeMap::new();
        let mut numbers = Numbers::default();
        for &(index, site) in &self.sites {
            let found = self.numbers(library, (index, site, Register::RAX), &mut asked, 0);
            numbers.extend(found);
        }
        needs.calls = numbers.values;
        needs.unknown = numbers.unknown;
    }

    /// What is in a register at an instruction, also when other objects put it there.
    fn numbers(
        &self,
        library: &mut Library,
        (index, at, register): (usize, u64, Register),
        asked: &mut BTreeMap<(String, usize), Numbers>,
        depth: usize,
    ) -> Numbers {
        let object = &self.objects[index];
        let origins = library.origins(object, at, register);
        let mut numbers = Numbers { values: origins.values.clone(), ..Numbers::default() };
        if origins.is_unknown {
            numbers.unknown.insert((object.path.clone(), at));
        }
        for &(function, register) in &origins.arguments {
            let names = object.exports.iter().filter(|(_, starts)| starts.contains(&function));
            for (name, _) in names {
                numbers.extend(self.arguments(library, (name, register), asked, depth));
            }
        }
        numbers
    }

    /// What those who call a function by its name put into a register.
    fn arguments(
        &self,
        library: &mut Library,
        (name, register): (&str, Register),
        asked: &mut BTreeMap<(String, usize), Numbers>,
        depth: usize,
    ) -> Numbers {
        let key = (name.to_owned(), register as usize);
        if let Some(known) = asked.get(&key) {
            return known.clone();
        }
        asked.insert(key.clone(), Numbers::default());
        let mut numbers = Numbers::default();
        for (index, user) in self.objects.iter().enumerate() {
            for used in user.code.uses_of(name) {
                let function = user.code.function_of(used.from).0;
                if index != 0 && !self.reached.contains(&(index, function)) {
                    continue;
                }
                if used.how == How::Called && depth <= DEPTH_MAX {
                    let place = (index, used.from, register);
                    numbers.extend(self.numbers(library, place, asked, depth + 1));
                } else {
                    numbers.unknown.insert((user.path.clone(), used.from));
                }
            }
        }
        asked.insert(key, numbers.clone());
        numbers
    }
}

/// Numbers that may be in a register.
#[derive(Clone, Debug, Default)]
struct Numbers {
    values: BTreeSet<u32>,
    /// Instructions that put something else there: object, address.
    unknown: BTreeSet<(PathBuf, u64)>,
}

impl Numbers {
    fn extend(&mut self, other: Self) {
        self.values.extend(other.values);
        self.unknown.extend(other.unknown);
    }
}
