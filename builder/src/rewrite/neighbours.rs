//! What the rest of the closure knows of a library: [`Neighbours`].

use std::collections::HashMap;

use crate::elf::{ElfObject, Import, Kind, SymbolName, WantedVersion};
use crate::link::Closure;

/// All other objects that are ever loaded together with a library.
#[derive(Debug, Clone, Default)]
pub struct Neighbours<'a> {
    objects: Vec<&'a ElfObject>,
}

/// How the neighbours use a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Naming {
    /// They want it.
    Wanted,
    /// They may give it another meaning for everyone.
    Defined,
}

/// The version by which glibc says that it reads `DT_RELR`.
pub(super) const PACKED_VERSION: &str = "GLIBC_ABI_DT_RELR";

/// One neighbour, as a place where references may end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Provider<'a>(&'a ElfObject);

impl Provider<'_> {
    /// Whether a reference could end there.
    pub(super) fn provides(&self, import: &Import<'_>) -> bool {
        let dynamic = self.0.dynamic.as_ref();
        dynamic.is_some_and(|dynamic| dynamic.symbols.provides(SymbolName::new(import.name), import.version))
    }
}

impl<'a> Neighbours<'a> {
    /// Takes the objects as they are given.
    pub fn new(objects: impl IntoIterator<Item = &'a ElfObject>) -> Self {
        Self { objects: objects.into_iter().collect() }
    }

    /// All objects of a closure but one, by its real path in the image.
    pub fn in_closure(closure: &'a Closure, file: &str) -> Self {
        Self::new(closure.objects.iter().filter(|object| object.file != file).map(|object| &*object.elf))
    }

    /// Every name that they have in their dynamic symbol tables.
    pub(super) fn names(&self) -> HashMap<&'a [u8], Naming> {
        let mut names = HashMap::new();
        for dynamic in self.objects.iter().filter_map(|object| object.dynamic.as_ref()) {
            for name in dynamic.symbols.names() {
                names.entry(name).or_insert(Naming::Wanted);
            }
        }
        for object in &self.objects {
            let Some(dynamic) = &object.dynamic else { continue };
            for export in dynamic.symbols.exports() {
                names.insert(export.name, Naming::Defined);
            }
            // A program at a fixed address gives the functions that it wants an address of its own.
            if object.kind == Kind::Executable {
                for import in dynamic.symbols.imports() {
                    names.insert(import.name, Naming::Defined);
                }
            }
        }
        names
    }

    /// Whether one of them could take a reference away from the library.
    pub(super) fn may_define(&self, name: SymbolName<'_>, version: Option<WantedVersion<'_>>) -> bool {
        self.objects.iter().any(|object| {
            let Some(dynamic) = &object.dynamic else { return false };
            dynamic.symbols.provides(name, version)
                || (object.kind == Kind::Executable && dynamic.symbols.imports().any(|import| import.name == name.bytes))
        })
    }

    /// The one of a soname.
    pub(super) fn called(&self, soname: &str) -> Option<Provider<'a>> {
        self.objects.iter().find(|object| object.soname() == Some(soname)).map(|object| Provider(object))
    }

    /// Calls `visit` for every name that they want, with the version.
    pub(super) fn each_wanted(&self, mut visit: impl FnMut(&'a [u8], Option<WantedVersion<'a>>)) {
        for dynamic in self.objects.iter().filter_map(|object| object.dynamic.as_ref()) {
            dynamic.symbols.imports().for_each(|import| visit(import.name, import.version));
        }
    }

    /// Whether the C library among them reads packed relocations, which glibc does since 2.36.
    pub(super) fn read_packed_relocations(&self) -> bool {
        let libc = self.objects.iter().find(|object| object.soname() == Some("libc.so.6"));
        let definitions = libc.and_then(|libc| libc.dynamic.as_ref()).map_or(&[][..], |dynamic| &dynamic.version_definitions);
        definitions.iter().any(|definition| definition.name == PACKED_VERSION)
    }
}
