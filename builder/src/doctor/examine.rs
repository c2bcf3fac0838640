//! What an image wants against what a host has: [`examine`]. Pure.

use super::host::INJECTED;
use super::{Architectures, Demands, Diagnosis, Finding, GpuDemands, Host, Verdict};
use crate::fatbin::{Architecture, Sm, Variant};

/// GPUs that TensorRT for RTX takes, by its provider's own list; from [`RTX_FROM`] on it takes all.
const RTX: [u32; 2] = [86, 89];
const RTX_FROM: u32 = 120;

const INSTALL_DRIVER: &str = "install NVIDIA's driver on this host, or take a host that has one";
const INSTALL_TOOLKIT: &str =
    "install NVIDIA's container toolkit (`nvidia-container-toolkit`), then `nvidia-ctk runtime configure --runtime=docker`";

/// Holds what an image wants against what a host has.
#[must_use]
pub fn examine(demands: &Demands, host: &Host) -> Diagnosis {
    let mut findings = vec![architecture(demands, host)];
    findings.extend(cpu(demands, host));
    match &demands.gpu {
        None => findings.push(finding("gpu", Verdict::Fits, "not looked at", "none", None)),
        Some(gpu) => {
            findings.push(driver(gpu, host));
            findings.push(gpus(gpu, host));
            findings.push(device_nodes(host));
            findings.push(libraries(gpu, host));
            findings.push(toolkit(host));
        }
    }
    findings.push(engine(demands, host));
    findings.push(embedded_runner(host));
    Diagnosis::of(findings)
}

fn finding(
    subject: &'static str,
    verdict: Verdict,
    found: impl Into<String>,
    expected: impl Into<String>,
    advice: Option<&str>,
) -> Finding {
    Finding { subject, verdict, found: found.into(), expected: expected.into(), advice: advice.map(str::to_owned) }
}

fn architecture(demands: &Demands, host: &Host) -> Finding {
    let own = match host.architecture.as_str() {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    if own == demands.architecture {
        return finding("architecture", Verdict::Fits, own, &demands.architecture, None);
    }
    let advice = format!("build the image for this host: `imgbuild build --platform linux/{own}`");
    finding("architecture", Verdict::Unfit, own, &demands.architecture, Some(&advice))
}

/// What the model was optimised or compiled for.
fn cpu(demands: &Demands, host: &Host) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(wanted) = &demands.cpu {
        // The server compares the whole list: weights that were laid out for fewer features are laid out otherwise too.
        let known = ["avx", "avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni"];
        let has = |name: &&str| host.cpu.contains(*name) || (*name == "avx512vnni" && host.cpu.contains("avx512_vnni"));
        let own: Vec<&str> = std::iter::once(host.architecture.as_str()).chain(known.into_iter().filter(has)).collect();
        let own = own.join(" ");
        let fits = own == *wanted;
        let advice = "build the image on such a CPU, or without `--optimize hardware`";
        let verdict = if fits { Verdict::Fits } else { Verdict::Unfit };
        findings.push(finding("cpu", verdict, own, wanted, (!fits).then_some(advice)));
    }
    if let Some(wanted) = &demands.xla {
        let missing: Vec<&str> = wanted.split_whitespace().filter(|flag| !host.cpu.contains(*flag)).collect();
        findings.push(if missing.is_empty() {
            finding("cpu", Verdict::Fits, "every feature that XLA compiled for", "", None)
        } else {
            let found = format!("no {}", missing.join(", "));
            let advice = "the image runs, and compiles anew at every start: build it on such a CPU, or with `--no-warm`";
            finding("cpu", Verdict::Note, found, "the features that XLA compiled for", Some(advice))
        });
    }
    findings
}

fn driver(gpu: &GpuDemands, host: &Host) -> Finding {
    let expected = match (gpu.driver, &gpu.cuda) {
        (Some(floor), Some(cuda)) => format!("{floor} or newer, for CUDA {cuda}"),
        (Some(floor), None) => format!("{floor} or newer"),
        (None, Some(cuda)) => format!("one for CUDA {cuda}"),
        (None, None) => "one that is new enough; the image does not say".to_owned(),
    };
    let Some(driver) = &host.driver else {
        let reason = host.nvml.as_deref().unwrap_or("none");
        return finding("driver", Verdict::Unfit, format!("none ({reason})"), expected, Some(INSTALL_DRIVER));
    };
    let found = match &driver.cuda {
        Some(cuda) => format!("{}, which serves CUDA {cuda}", driver.version),
        None => driver.version.clone(),
    };
    match (gpu.driver, driver.major()) {
        (Some(floor), Some(own)) if own < floor => {
            let advice = format!("update the driver to {floor} or newer, or build the image with libraries for an older CUDA");
            finding("driver", Verdict::Unfit, found, expected, Some(&advice))
        }
        (Some(_), Some(_)) => finding("driver", Verdict::Fits, found, expected, None),
        _ => finding("driver", Verdict::Unknown, found, expected, None),
    }
}

/// Whether a GPU runs code that was made for an architecture: that one or, within the same major version, a later one.
pub(super) fn runs(gpu: Sm, code: Sm) -> bool {
    gpu.runs(Architecture { sm: code.number(), variant: Variant::Plain })
}

fn gpus(demands: &GpuDemands, host: &Host) -> Finding {
    let is_rtx = demands.provider == "nv-tensorrt-rtx";
    let expected = match &demands.architectures {
        Some(Architectures::Some(_)) => demands.architectures.as_ref().map(ToString::to_string).unwrap_or_default(),
        _ if is_rtx => "sm_86, sm_89, sm_120 or newer".to_owned(),
        Some(Architectures::All) => "any that its libraries have code for".to_owned(),
        None => "the image does not say".to_owned(),
    };
    if host.gpus.is_empty() {
        return finding("gpu", Verdict::Unfit, "none", expected, Some("take a host with a GPU, or build the image for the CPU"));
    }
    let told = |gpu: &super::Gpu| match gpu.sm {
        Some(sm) => format!("{} ({sm})", gpu.name),
        None => format!("{} (architecture unknown)", gpu.name),
    };
    let found = host.gpus.iter().map(told).collect::<Vec<_>>().join(", ");
    let fits = |sm: Sm| match &demands.architectures {
        Some(Architectures::Some(list)) => Some(list.iter().any(|code| runs(sm, *code))),
        _ if is_rtx => Some(RTX.contains(&sm.number()) || sm.number() >= RTX_FROM),
        Some(Architectures::All) => Some(true),
        None => None,
    };
    let verdicts: Vec<Option<bool>> = host.gpus.iter().map(|gpu| gpu.sm.and_then(fits)).collect();
    if verdicts.iter().all(|fits| *fits == Some(false)) {
        let own = host.gpus.iter().find_map(|gpu| gpu.sm).map(|sm| sm.to_string()).unwrap_or_default();
        let advice = if is_rtx {
            "this GPU is not for TensorRT for RTX: build with `--stack onnx-cuda`".to_owned()
        } else {
            format!("build the image for this GPU: `imgbuild build --gpu {own}`")
        };
        return finding("gpu", Verdict::Unfit, found, expected, Some(&advice));
    }
    let (some, all) = (verdicts.contains(&Some(true)), verdicts.iter().all(|fits| *fits == Some(true)));
    match (some, all) {
        (true, true) => finding("gpu", Verdict::Fits, found, expected, None),
        (true, false) => {
            finding("gpu", Verdict::Note, found, expected, Some("give the container a GPU that fits: `--gpus device=N`"))
        }
        _ => finding("gpu", Verdict::Unknown, found, expected, None),
    }
}

fn device_nodes(host: &Host) -> Finding {
    let (found, expected) = (host.devices.join(", "), "/dev/nvidia0, /dev/nvidiactl, /dev/nvidia-uvm");
    let has = |name: &str| host.devices.iter().any(|device| device == name);
    let is_numbered = |device: &String| device.starts_with("/dev/nvidia") && device.ends_with(|end: char| end.is_ascii_digit());
    if has("/dev/dxg") || (host.devices.iter().any(is_numbered) && has("/dev/nvidiactl") && has("/dev/nvidia-uvm")) {
        return finding("device nodes", Verdict::Fits, found, expected, None);
    }
    let found = if found.is_empty() { "none".to_owned() } else { found };
    let advice = "load the driver and let it make them: `nvidia-modprobe -u -c 0`";
    finding("device nodes", Verdict::Unfit, found, expected, Some(advice))
}

/// Libraries that come from the host.
fn libraries(gpu: &GpuDemands, host: &Host) -> Finding {
    // The plug-in is linked to the management library; the other providers know the driver's library alone.
    let needed = if gpu.provider == "nv-tensorrt-rtx" { &INJECTED[..2] } else { &INJECTED[..1] };
    let missing = |names: &[&'static str]| -> Vec<&'static str> {
        names.iter().filter(|name| !host.libraries.iter().any(|has| has == *name)).copied().collect()
    };
    let found = if host.libraries.is_empty() { "none".to_owned() } else { host.libraries.join(", ") };
    let expected = needed.join(", ");
    if !missing(needed).is_empty() {
        let advice = format!("`{}` comes with the driver: {INSTALL_DRIVER}", missing(needed).join("`, `"));
        return finding("driver's libraries", Verdict::Unfit, found, expected, Some(&advice));
    }
    match missing(&INJECTED[2..]).as_slice() {
        [] => finding("driver's libraries", Verdict::Fits, found, expected, None),
        lacking => {
            let advice = format!("without {} the driver cannot compile code for a GPU at run time", lacking.join(" and "));
            finding("driver's libraries", Verdict::Note, found, expected, Some(&advice))
        }
    }
}

fn toolkit(host: &Host) -> Finding {
    let toolkit = &host.toolkit;
    let mut found = toolkit.programs.clone();
    found.extend(toolkit.docker_runtimes.iter().map(|name| format!("Docker's runtime `{name}`")));
    found.extend(toolkit.cdi.iter().map(|path| format!("CDI in {path}")));
    let expected = "nvidia-container-runtime or a CDI specification";
    if found.is_empty() {
        return finding("container toolkit", Verdict::Unfit, "none", expected, Some(INSTALL_TOOLKIT));
    }
    let found = found.join(", ");
    // `--gpus` needs the programs alone; a runtime or CDI is what cluster managers and podman go by.
    finding("container toolkit", Verdict::Fits, found, expected, None)
}

fn engine(demands: &Demands, host: &Host) -> Finding {
    let expected = if demands.zstd { "one that reads zstd layers: Docker 23.0 or newer, podman, containerd" } else { "any" };
    let Some(engine) = &host.engine else {
        return finding("container engine", Verdict::Note, "none answers", expected, None);
    };
    let major = engine.strip_prefix("Docker ").and_then(|version| version.split('.').next()?.parse::<u32>().ok());
    if demands.zstd && major.is_some_and(|major| major < 23) {
        let advice = "update Docker, or build the image with `--compression gzip`";
        return finding("container engine", Verdict::Unfit, engine, expected, Some(advice));
    }
    finding("container engine", Verdict::Fits, engine, expected, None)
}

fn embedded_runner(host: &Host) -> Finding {
    match &host.no_user_namespaces {
        None => finding("user namespaces", Verdict::Fits, "allowed", "", None),
        Some(reason) => {
            let advice = "the embedded runner of `imgbuild run` needs them; container engines do not";
            finding("user namespaces", Verdict::Note, reason, "", Some(advice))
        }
    }
}
