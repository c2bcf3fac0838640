//! Binds every symbol of a process as the loader would with `LD_BIND_NOW`.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::closure::LinkObject;
use super::error::LinkError;
use super::process::Process;
use super::proof::LinkWarning;
use super::request::InjectedList;
use crate::elf::{Binding, Dynamic, Import, SymbolName, VersionNeed};

/// What binding brought to light, over all processes.
#[derive(Debug, Clone, Default)]
pub(super) struct Findings {
    pub(super) errors: Vec<LinkError>,
    pub(super) warnings: BTreeSet<LinkWarning>,
    /// References looked up.
    pub(super) symbols: u64,
    /// Versions checked.
    pub(super) versions: u64,
    /// References left to injected libraries.
    pub(super) injected_symbols: u64,
    /// Versions left to injected libraries.
    pub(super) injected_versions: u64,
    /// Weak references that nothing resolves.
    pub(super) weak_unresolved: u64,
    /// Pairs of objects of which the first uses a symbol or a version of the second.
    pub(super) uses: HashSet<(usize, usize)>,
    /// References that a missing library may have been meant to resolve, by its name.
    pub(super) unresolved: BTreeMap<String, usize>,
    /// Errors of binding already reported by another process.
    pub(super) reported: HashSet<String>,
}

impl Findings {
    fn fail(&mut self, error: LinkError) {
        if self.reported.insert(error.to_string()) {
            self.errors.push(error);
        }
    }
}

/// Checks the versions of all objects, then looks every reference up, group by group.
pub(super) fn bind(process: &Process, objects: &[LinkObject], injected: &InjectedList, findings: &mut Findings) {
    for group in 0..process.scopes.len() {
        let members = |index: &usize| process.loaded[*index].group == group;
        let binder = Binder { process, objects, injected, group };
        for index in (0..process.loaded.len()).filter(members) {
            let object = process.loaded[index].object;
            if let Some(dynamic) = &objects[object].elf.dynamic {
                let absent = binder.check_versions(object, dynamic, findings);
                binder.check_packed_relocations(object, dynamic, findings);
                // A loader that nothing needs is in no scope and binds itself.
                if process.scopes.iter().any(|scope| scope.contains(&index)) {
                    binder.bind_symbols(index, dynamic, &absent, findings);
                }
            }
        }
    }
}

struct Binder<'a> {
    process: &'a Process,
    objects: &'a [LinkObject],
    injected: &'a InjectedList,
    group: usize,
}

/// Versions that were reported as absent, as file and name.
type Absent<'a> = HashSet<(&'a str, &'a str)>;

impl Binder<'_> {
    fn path(&self, object: usize) -> String {
        self.objects[object].path.clone()
    }

    fn is_injected(&self, soname: &str) -> bool {
        self.injected.position(soname).is_some_and(|position| self.process.injected.contains(&position))
    }

    /// The check of `_dl_check_map_versions`.
    fn check_versions<'d>(&self, object: usize, dynamic: &'d Dynamic, findings: &mut Findings) -> Absent<'d> {
        let mut absent = Absent::new();
        for need in &dynamic.version_needs {
            let count = need.versions.len() as u64;
            let Some(file) =
                self.process.named(&need.file, self.objects).filter(|&file| self.process.loaded[file].group <= self.group)
            else {
                if self.is_injected(&need.file) {
                    findings.injected_versions += count;
                } else if !self.process.unavailable.contains(&need.file) {
                    findings.fail(LinkError::VersionFileNotLoaded { object: self.path(object), file: need.file.clone() });
                }
                continue;
            };
            let provider = self.process.loaded[file].object;
            findings.uses.insert((object, provider));
            findings.versions += count;
            let definitions = self.objects[provider].elf.dynamic.as_ref().map_or(&[][..], |dynamic| &dynamic.version_definitions);
            if definitions.is_empty() {
                findings.warnings.insert(LinkWarning::NoVersions { object: self.path(object), file: need.file.clone() });
                continue;
            }
            let defined: HashSet<&str> = definitions.iter().map(|definition| definition.name.as_str()).collect();
            for version in need.versions.iter().filter(|version| !defined.contains(version.name.as_str())) {
                let (object, file, name) = (self.path(object), need.file.clone(), version.name.clone());
                if version.is_weak {
                    findings.warnings.insert(LinkWarning::WeakVersionMissing { object, file, version: name });
                    continue;
                }
                absent.insert((&need.file, &version.name));
                let symbols = symbols_of(dynamic, need, &version.name);
                findings.fail(LinkError::VersionMissing {
                    object,
                    file,
                    highest: highest_like(&version.name, &defined),
                    version: name,
                    symbols,
                });
            }
        }
        absent
    }

    /// Since it reads `DT_RELR`, glibc refuses objects that an older one would load and crash with.
    fn check_packed_relocations(&self, object: usize, dynamic: &Dynamic, findings: &mut Findings) {
        let declares = |need: &VersionNeed| need.versions.iter().any(|version| version.name == "GLIBC_ABI_DT_RELR");
        if dynamic.has_packed_relocations
            && dynamic.needed.iter().any(|name| name == "libc.so.6")
            && !dynamic.version_needs.is_empty()
            && !dynamic.version_needs.iter().any(declares)
        {
            findings.fail(LinkError::PackedRelocationsUndeclared { object: self.path(object) });
        }
    }

    fn bind_symbols(&self, index: usize, dynamic: &Dynamic, absent: &Absent<'_>, findings: &mut Findings) {
        let object = self.process.loaded[index].object;
        let local = if self.group == 0 { &[][..] } else { &self.process.scopes[self.group] };
        for import in dynamic.symbols.imports().filter(|import| import.is_referenced) {
            findings.symbols += 1;
            let name = SymbolName::new(import.name);
            let mut scope = self.process.global_scope(self.group).chain(local.iter().copied());
            let provider = scope.find(|&candidate| {
                // A copied variable is sought in the libraries, not in the program that has room for it.
                let skipped = import.is_copied && candidate == index;
                !skipped && self.symbols(candidate).is_some_and(|dynamic| dynamic.symbols.provides(name, import.version))
            });
            match provider {
                Some(provider) => self.bound(object, provider, &import, findings),
                None if self.is_expected_of_host(&import) => findings.injected_symbols += 1,
                None if import.binding == Binding::Weak => findings.weak_unresolved += 1,
                None => self.unbound(index, &import, absent, findings),
            }
        }
    }

    fn symbols(&self, loaded: usize) -> Option<&Dynamic> {
        self.objects[self.process.loaded[loaded].object].elf.dynamic.as_ref()
    }

    fn is_expected_of_host(&self, import: &Import<'_>) -> bool {
        self.process.injected.iter().any(|&position| self.injected.libraries[position].provides(import.name))
    }

    fn bound(&self, object: usize, provider: usize, import: &Import<'_>, findings: &mut Findings) {
        let provider_object = self.process.loaded[provider].object;
        if provider_object != object {
            findings.uses.insert((object, provider_object));
        }
        // The loader asserts that a library which was linked with versions has not lost them all.
        let Some(version) = import.version else { return };
        let Some(file) = version.file else { return };
        let has_versions = self.symbols(provider).is_some_and(|dynamic| dynamic.symbols.has_versions());
        if !has_versions && self.process.named(file, self.objects) == Some(provider) {
            findings.fail(LinkError::VersionsStripped {
                object: self.path(object),
                symbol: import.text().into_owned(),
                version: version.name.to_owned(),
                file: file.to_owned(),
            });
        }
    }

    /// Notes a reference that nothing resolves, unless another error explains it.
    fn unbound(&self, index: usize, import: &Import<'_>, absent: &Absent<'_>, findings: &mut Findings) {
        let object = self.process.loaded[index].object;
        let file = import.version.and_then(|version| version.file);
        if let (Some(version), Some(file)) = (import.version, file)
            && absent.contains(&(file, version.name))
        {
            return;
        }
        let unavailable = &self.process.unavailable;
        let needed_here = || self.objects[object].elf.needed().iter().find(|name| unavailable.contains(*name));
        let suspect = match file {
            Some(file) => unavailable.get(file),
            None => needed_here().or_else(|| unavailable.first()),
        };
        if let Some(suspect) = suspect {
            *findings.unresolved.entry(suspect.clone()).or_default() += 1;
            return;
        }
        let name = SymbolName::new(import.name);
        let scope = self.process.global_scope(self.group).chain(self.process.scopes[self.group].iter().copied());
        let in_scope: BTreeSet<usize> = scope.filter(|&candidate| candidate != index).collect();
        let found = in_scope.into_iter().filter_map(|candidate| {
            let versions = self.symbols(candidate)?.symbols.versions_of(name);
            let shown: Vec<&str> =
                versions.into_iter().map(|version| if version.is_empty() { "no version" } else { version }).collect();
            let path = &self.objects[self.process.loaded[candidate].object].path;
            (!shown.is_empty()).then(|| format!("{} in `{path}`", shown.join(", ")))
        });
        findings.fail(LinkError::SymbolMissing {
            object: self.path(object),
            symbol: import.text().into_owned(),
            version: import.version.map(|version| version.name.to_owned()),
            expected_from: file.map(str::to_owned),
            found: found.collect(),
        });
    }
}

/// The referenced symbols that carry a version.
fn symbols_of(dynamic: &Dynamic, need: &VersionNeed, name: &str) -> Vec<String> {
    let carries =
        |import: &Import<'_>| import.version.is_some_and(|version| version.name == name && version.file == Some(&need.file));
    dynamic.symbols.imports().filter(carries).map(|import| import.text().into_owned()).collect()
}

/// The highest of the versions that share everything but the number with the wanted one.
fn highest_like(wanted: &str, defined: &HashSet<&str>) -> Option<String> {
    let (family, _) = split(wanted)?;
    let numbered =
        defined.iter().filter_map(|name| split(name).filter(|(own, _)| *own == family).map(|(_, number)| (number, *name)));
    numbered.max().map(|(_, name)| name.to_owned())
}

/// Splits `GLIBC_2.34` into its family and its number.
fn split(version: &str) -> Option<(&str, Vec<u64>)> {
    let at = version.find(|character: char| character.is_ascii_digit())?;
    let number = version[at..].split(['.', '_']).map(|part| part.parse().ok()).collect::<Option<_>>()?;
    Some((&version[..at], number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_versions_by_number_within_a_family() {
        let defined = HashSet::from(["GLIBC_2.2.5", "GLIBC_2.36", "GLIBC_2.4", "GLIBC_PRIVATE", "GLIBCXX_3.4.30", "V_1"]);
        assert_eq!(highest_like("GLIBC_2.38", &defined).as_deref(), Some("GLIBC_2.36"));
        assert_eq!(highest_like("GLIBCXX_3.4.31", &defined).as_deref(), Some("GLIBCXX_3.4.30"));
        assert_eq!(highest_like("V_2", &defined).as_deref(), Some("V_1"));
        assert_eq!(highest_like("CXXABI_1.3", &defined), None);
        assert_eq!(highest_like("GLIBC_PRIVATE", &defined), None);
    }
}
