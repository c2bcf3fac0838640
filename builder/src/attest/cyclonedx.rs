//! The bill of materials in CycloneDX 1.6.

use serde_json::{Value, json};

use super::licence::Licence;
use super::{COMPILER_RUNTIME, COMPILER_RUNTIME_LICENCE, Facts};
use crate::report::{FileSize, PackageSize};

pub(super) const MEDIA_TYPE: &str = "application/vnd.cyclonedx+json";

/// Makes the document. References between components are the addresses of packages and the paths of files.
pub(super) fn document(facts: &Facts<'_>) -> Value {
    let report = facts.report;
    let mut components: Vec<Value> = Vec::new();
    for (package, pin) in facts.packages() {
        let address = facts.package_address(&package.name, &package.version, package.digest, pin);
        components.push(json!({
            "type": "library",
            "bom-ref": address,
            "name": package.name,
            "version": package.version,
            "purl": address,
            "hashes": hashes(package.digest.hex()),
            "licenses": licenses(package),
            "components": files(facts.files_of(package)),
        }));
    }
    if let Some(compiled) = &report.compiled {
        components.push(json!({
            "type": "library",
            "bom-ref": "compiler-runtime",
            "name": COMPILER_RUNTIME,
            "version": compiled.linked_by,
            "description": "parts of it that the C++ compiler links into the model",
            "licenses": [{ "expression": COMPILER_RUNTIME_LICENCE }],
        }));
    }
    if let Some(base) = &facts.lock.base_image {
        components.push(json!({
            "type": "container",
            "bom-ref": "base",
            "name": facts.lock.base,
            "hashes": hashes(base.sha256.hex()),
        }));
    }
    components.push(json!({
        "type": "application",
        "bom-ref": "imgserve",
        "name": "imgserve",
        "version": facts.lock.server.sha256.short(),
        "hashes": hashes(facts.lock.server.sha256.hex()),
        "components": files(facts.server_files()),
    }));
    components.push(json!({
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": report.model.name,
        "components": files(facts.model_files()),
        "properties": [
            { "name": "imgbuild:format", "value": report.model.format },
            { "name": "imgbuild:size", "value": report.model.size.to_string() },
        ],
    }));
    components.extend(files(facts.other_files()));
    let depends_on: Vec<Value> = components.iter().map(|component| component["bom-ref"].clone()).collect();
    let image = facts.image_address();
    json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": format!("urn:uuid:{}", facts.uuid()),
        "version": 1,
        "metadata": {
            "timestamp": facts.time(),
            "lifecycles": [{ "phase": "build" }],
            "tools": { "components": [{ "type": "application", "name": "imgbuild", "version": report.imgbuild }] },
            "component": {
                "type": "container",
                "bom-ref": image,
                "name": report.model.name,
                "version": report.image.digest.to_string(),
                "purl": image,
                "hashes": hashes(report.image.digest.hex()),
                "properties": [
                    { "name": "imgbuild:stack", "value": report.stack },
                    { "name": "imgbuild:base", "value": report.base },
                    { "name": "imgbuild:platform", "value": report.image.platform },
                ],
            },
        },
        "components": components,
        "dependencies": [{ "ref": image, "dependsOn": depends_on }],
    })
}

fn hashes(hex: String) -> Value {
    json!([{ "alg": "SHA-256", "content": hex }])
}

fn files<'a>(files: impl Iterator<Item = &'a FileSize>) -> Vec<Value> {
    let file = |file: &FileSize| {
        json!({
            "type": "file",
            "bom-ref": format!("file:{}", file.path),
            "name": file.path,
            "hashes": hashes(file.digest.hex()),
        })
    };
    files.map(file).collect()
}

/// The licences of a package. The format takes one expression, or any number of licences that are none.
fn licenses(package: &PackageSize) -> Value {
    let read: Vec<Licence> = package.licences().map(Licence::read).collect();
    if let [Licence::Expression(one)] = &read[..] {
        return json!([{ "expression": one }]);
    }
    let one = |licence: &Licence| match licence {
        Licence::Expression(id) if spdx::license_id(id).is_some() => json!({ "license": { "id": id } }),
        Licence::Expression(name) | Licence::Name(name) => json!({ "license": { "name": name } }),
    };
    Value::from(read.iter().map(one).collect::<Vec<_>>())
}
