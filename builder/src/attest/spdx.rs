//! The bill of materials in SPDX 2.3.
//!
//! Files are packages whose purpose is `FILE`: the format's own list of files wants SHA-1 digests, which nothing here computes.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::licence::Licence;
use super::{COMPILER_RUNTIME, COMPILER_RUNTIME_LICENCE, Facts};
use crate::digest::Digest;
use crate::report::FileSize;

pub(super) const MEDIA_TYPE: &str = "application/spdx+json";
const ROOT: &str = "SPDXRef-Image";

#[derive(Default)]
struct Writer {
    packages: Vec<Value>,
    relationships: Vec<Value>,
    /// Licences that SPDX does not know, by identifier.
    extracted: BTreeMap<String, String>,
}

/// Makes the document.
pub(super) fn document(facts: &Facts<'_>) -> Value {
    let report = facts.report;
    let mut writer = Writer::default();
    writer.packages.push(json!({
        "SPDXID": ROOT,
        "name": report.model.name,
        "versionInfo": report.image.digest.to_string(),
        "primaryPackagePurpose": "CONTAINER",
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "checksums": checksums(report.image.digest),
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "externalRefs": [external_reference(&facts.image_address())],
    }));
    writer.relate("SPDXRef-DOCUMENT", "DESCRIBES", ROOT);
    for (package, pin) in facts.packages() {
        let address = facts.package_address(&package.name, &package.version, package.digest, pin);
        let id = identifier("Package", &package.name, package.digest);
        let declared = writer.declared(package.licences().map(Licence::read).collect());
        let mut entry = entry(&id, &package.name, "LIBRARY", Some(package.digest), &declared);
        entry["versionInfo"] = json!(package.version);
        entry["externalRefs"] = json!([external_reference(&address)]);
        writer.packages.push(entry);
        writer.relate(ROOT, "CONTAINS", &id);
        writer.files(&id, facts.files_of(package));
    }
    if let Some(compiled) = &report.compiled {
        let mut linked = entry("SPDXRef-CompilerRuntime", COMPILER_RUNTIME, "LIBRARY", None, COMPILER_RUNTIME_LICENCE);
        linked["versionInfo"] = json!(compiled.linked_by);
        writer.packages.push(linked);
        writer.relate(ROOT, "CONTAINS", "SPDXRef-CompilerRuntime");
    }
    if let Some(base) = &facts.lock.base_image {
        writer.packages.push(entry("SPDXRef-Base", &facts.lock.base, "CONTAINER", Some(base.sha256), "NOASSERTION"));
        writer.relate(ROOT, "CONTAINS", "SPDXRef-Base");
    }
    let mut server = entry("SPDXRef-Server", "imgserve", "APPLICATION", Some(facts.lock.server.sha256), "NOASSERTION");
    server["versionInfo"] = json!(facts.lock.server.sha256.short());
    writer.packages.push(server);
    writer.relate(ROOT, "CONTAINS", "SPDXRef-Server");
    writer.files("SPDXRef-Server", facts.server_files());
    let mut model = entry("SPDXRef-Model", &report.model.name, "OTHER", None, "NOASSERTION");
    model["comment"] = json!(format!("machine-learning model, {}, {} bytes", report.model.format, report.model.size));
    writer.packages.push(model);
    writer.relate(ROOT, "CONTAINS", "SPDXRef-Model");
    writer.files("SPDXRef-Model", facts.model_files());
    writer.files(ROOT, facts.other_files());
    let extracted: Vec<Value> = writer
        .extracted
        .iter()
        .map(|(id, name)| json!({ "licenseId": id, "name": name, "extractedText": format!("named `{name}` by the package") }))
        .collect();
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": report.model.name,
        "documentNamespace": format!("https://spdx.org/spdxdocs/{}-{}", report.model.name, facts.uuid()),
        "creationInfo": { "created": facts.time(), "creators": [format!("Tool: imgbuild-{}", report.imgbuild)] },
        "documentDescribes": [ROOT],
        "packages": writer.packages,
        "relationships": writer.relationships,
        "hasExtractedLicensingInfos": extracted,
    })
}

impl Writer {
    fn relate(&mut self, from: &str, how: &str, to: &str) {
        self.relationships.push(json!({ "spdxElementId": from, "relationshipType": how, "relatedSpdxElement": to }));
    }

    fn files<'a>(&mut self, owner: &str, files: impl Iterator<Item = &'a FileSize>) {
        for file in files {
            let id = identifier("File", &file.path, Digest::of(file.path.as_bytes()));
            self.packages.push(entry(&id, &file.path, "FILE", Some(file.digest), "NOASSERTION"));
            self.relate(owner, "CONTAINS", &id);
        }
    }

    /// All of several licences as one expression; what SPDX does not know gets an identifier of this document.
    fn declared(&mut self, licences: Vec<Licence>) -> String {
        let several = licences.len() > 1;
        let mut terms = Vec::new();
        for licence in licences {
            terms.push(match licence {
                Licence::Expression(text) if several && text.contains(' ') => format!("({text})"),
                Licence::Expression(text) => text,
                Licence::Name(name) => {
                    let id = format!("LicenseRef-{}", plain(name.strip_prefix("LicenseRef-").unwrap_or(&name)));
                    self.extracted.insert(id.clone(), name);
                    id
                }
            });
        }
        if terms.is_empty() { "NOASSERTION".to_owned() } else { terms.join(" AND ") }
    }
}

fn entry(id: &str, name: &str, purpose: &str, digest: Option<Digest>, declared: &str) -> Value {
    let mut entry = json!({
        "SPDXID": id,
        "name": name,
        "primaryPackagePurpose": purpose,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": declared,
        "copyrightText": "NOASSERTION",
    });
    if let Some(digest) = digest {
        entry["checksums"] = checksums(digest);
    }
    entry
}

fn checksums(digest: Digest) -> Value {
    json!([{ "algorithm": "SHA256", "checksumValue": digest.hex() }])
}

fn external_reference(address: &str) -> Value {
    json!({ "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": address })
}

fn identifier(kind: &str, name: &str, digest: Digest) -> String {
    format!("SPDXRef-{kind}-{}-{}", plain(name), digest.short())
}

/// A text with nothing in it but what identifiers may have.
fn plain(text: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    text.trim_matches('/').chars().map(allowed).collect()
}
