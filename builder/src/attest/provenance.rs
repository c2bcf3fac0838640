//! Where an image came from: an in-toto statement with a SLSA provenance of version 1.

use serde_json::{Value, json};

use super::Facts;

pub(super) const MEDIA_TYPE: &str = "application/vnd.in-toto+json";
pub(super) const PREDICATE_TYPE: &str = "https://slsa.dev/provenance/v1";

/// What `buildType` is: how the parameters are to be understood (`docs/spec/supply-chain.md`).
pub const BUILD_TYPE: &str = "urn:imgbuild:build:v1";
/// Who builds unless somebody says otherwise: any machine.
pub const LOCAL_BUILDER: &str = "urn:imgbuild:builder:local";

/// Makes the statement. It has no times: they would be the only thing that differs between equal builds.
pub(super) fn statement(facts: &Facts<'_>) -> Value {
    let report = facts.report;
    let mut dependencies: Vec<Value> = Vec::new();
    if let Some(base) = &facts.lock.base_image {
        dependencies.push(json!({ "name": facts.lock.base, "digest": { "sha256": base.sha256.hex() } }));
    }
    for pin in facts.lock.packages() {
        dependencies.push(json!({
            "uri": facts.package_address(&pin.name, &pin.version, pin.sha256, Some(pin)),
            "name": pin.file,
            "digest": { "sha256": pin.sha256.hex() },
        }));
    }
    dependencies.push(json!({ "name": "imgserve", "digest": { "sha256": facts.lock.server.sha256.hex() } }));
    for (name, digest) in report.compiled.iter().flat_map(|compiled| &compiled.sources) {
        dependencies.push(json!({ "name": name, "digest": { "sha256": digest.hex() } }));
    }
    for file in facts.model_files() {
        let name = file.path.rsplit('/').next().unwrap_or(&file.path);
        dependencies.push(json!({ "name": name, "digest": { "sha256": file.digest.hex() } }));
    }
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{ "name": report.model.name, "digest": { "sha256": report.image.digest.hex() } }],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "model": report.model.name,
                    "stack": facts.lock.stack,
                    "base": facts.lock.base,
                    "platform": facts.lock.platform,
                    "minimize": report.minimize.to_string(),
                    "compression": facts.compression,
                    "keep": facts.keep,
                    "sourceDateEpoch": facts.epoch,
                },
                "internalParameters": {
                    "layerFormat": facts.lock.format,
                    "request": facts.lock.request.to_string(),
                    "rewriting": facts.lock.rewriting.map(|pin| pin.to_string()),
                },
                "resolvedDependencies": dependencies,
            },
            "runDetails": {
                "builder": { "id": facts.builder, "version": { "imgbuild": report.imgbuild } },
            },
        },
    })
}
