//! Images against hosts, both made up: what is found, and what it means.

use std::collections::BTreeMap;

use super::demands::gpu;
use super::{Demands, Driver, Gpu, GpuDemands, Host, Toolkit, Verdict, examine};
use crate::image::label;

fn host() -> Host {
    Host {
        architecture: "x86_64".to_owned(),
        cpu: ["avx", "avx2", "fma"].map(str::to_owned).into(),
        driver: Some(Driver { version: "580.65.06".to_owned(), cuda: Some("13.0".to_owned()) }),
        gpus: vec![Gpu { name: "Tesla T4".to_owned(), sm: "sm_75".parse().ok() }],
        nvml: None,
        devices: ["/dev/nvidia0", "/dev/nvidia-uvm", "/dev/nvidiactl"].map(str::to_owned).into(),
        toolkit: Toolkit { programs: vec!["/usr/bin/nvidia-ctk".to_owned()], ..Toolkit::default() },
        libraries: super::host::INJECTED.map(str::to_owned).into(),
        no_user_namespaces: None,
        engine: Some("Docker 27.3.1".to_owned()),
    }
}

fn demands(labels: &[(&str, &str)]) -> Demands {
    let labels: BTreeMap<_, _> = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let gpu = gpu(&labels, None).expect("labels that are understood");
    Demands { architecture: "amd64".to_owned(), zstd: true, gpu, ..Demands::default() }
}

const CUDA: [(&str, &str); 4] =
    [(label::PROVIDER, "cuda"), (label::SM, "sm_75,sm_86"), (label::DRIVER, "580"), (label::CUDA, "13.0")];

/// What is not as the image wants it: subject and verdict.
fn off(demands: &Demands, host: &Host) -> Vec<(&'static str, Verdict)> {
    let diagnosis = examine(demands, host);
    let off: Vec<_> = diagnosis.findings.iter().filter(|finding| finding.verdict != Verdict::Fits).collect();
    assert!(off.iter().all(|finding| finding.verdict != Verdict::Unfit || finding.advice.is_some()), "{off:?}");
    assert_eq!(diagnosis.runs, off.iter().all(|finding| finding.verdict != Verdict::Unfit));
    off.into_iter().map(|finding| (finding.subject, finding.verdict)).collect()
}

#[test]
fn a_host_that_has_everything_fits() {
    assert_eq!(off(&demands(&CUDA), &host()), []);
    assert_eq!(off(&demands(&[]), &Host { driver: None, gpus: Vec::new(), ..host() }), []);
}

#[test]
fn each_thing_that_is_missing_is_found() {
    let (image, host) = (demands(&CUDA), host());
    let no = |subject| vec![(subject, Verdict::Unfit)];
    let older = Driver { version: "550.54.15".to_owned(), cuda: Some("12.4".to_owned()) };
    assert_eq!(off(&image, &Host { driver: Some(older), ..host.clone() }), no("driver"));
    assert_eq!(off(&image, &Host { driver: None, ..host.clone() }), no("driver"));
    assert_eq!(off(&image, &Host { gpus: Vec::new(), ..host.clone() }), no("gpu"));
    assert_eq!(off(&image, &Host { devices: vec!["/dev/nvidia0".to_owned()], ..host.clone() }), no("device nodes"));
    assert_eq!(off(&image, &Host { toolkit: Toolkit::default(), ..host.clone() }), no("container toolkit"));
    assert_eq!(off(&image, &Host { libraries: Vec::new(), ..host.clone() }), no("driver's libraries"));
    assert_eq!(off(&image, &Host { engine: Some("Docker 20.10.24".to_owned()), ..host.clone() }), no("container engine"));
    assert_eq!(off(&image, &Host { architecture: "aarch64".to_owned(), ..host.clone() }), no("architecture"));
    let nothing = off(&image, &Host { architecture: "x86_64".to_owned(), ..Host::default() });
    assert_eq!(nothing.iter().filter(|(_, verdict)| *verdict == Verdict::Unfit).count(), 5, "{nothing:?}");
}

#[test]
fn a_gpu_runs_code_of_its_major_version_up_to_its_own() {
    let with = |sm: &str| Host { gpus: vec![Gpu { name: "GPU".to_owned(), sm: sm.parse().ok() }], ..host() };
    let verdict = |labels: &[(&str, &str)], sm: &str| off(&demands(labels), &with(sm));
    let no = vec![("gpu", Verdict::Unfit)];
    assert_eq!(verdict(&CUDA, "sm_86"), []);
    assert_eq!(verdict(&CUDA, "sm_89"), [], "sm_86 code runs on it");
    assert_eq!(verdict(&CUDA, "sm_80"), no, "sm_86 code does not");
    assert_eq!(verdict(&CUDA, "sm_90"), no);
    assert_eq!(verdict(&CUDA, "unknown"), [("gpu", Verdict::Unknown)]);
    let rtx = [(label::PROVIDER, "nv-tensorrt-rtx"), (label::DRIVER, "580")];
    for (sm, fits) in [("sm_75", false), ("sm_86", true), ("sm_90", false), ("sm_120", true), ("sm_121", true)] {
        assert_eq!(verdict(&rtx, sm), if fits { vec![] } else { no.clone() }, "{sm}");
    }
    // Of several GPUs one is enough, and the container has to be given that one.
    let mut two = with("sm_70");
    two.gpus.extend(with("sm_75").gpus);
    assert_eq!(off(&demands(&CUDA), &two), [("gpu", Verdict::Note)]);
}

#[test]
fn what_the_model_wants_of_the_cpu_counts() {
    let image = |cpu: &str| Demands { cpu: Some(cpu.to_owned()), ..demands(&[]) };
    assert_eq!(off(&image("x86_64 avx avx2 fma"), &host()), []);
    assert_eq!(off(&image("x86_64 avx avx2 fma avx512f"), &host()), [("cpu", Verdict::Unfit)]);
    let compiled = Demands { xla: Some("avx fma amx_tile".to_owned()), ..demands(&[]) };
    assert_eq!(off(&compiled, &host()), [("cpu", Verdict::Note)]);
}

#[test]
fn labels_that_are_not_understood_are_errors() {
    let read = |name: &str, value: &str| gpu(&BTreeMap::from([(name.to_owned(), value.to_owned())]), Some("cuda".to_owned()));
    for (name, value) in
        [(label::SM, "75"), (label::SM, ""), (label::SM, "sm_75;sm_80"), (label::DRIVER, "new"), (label::DRIVER, "")]
    {
        let error = read(name, value).expect_err(value).to_string();
        assert!(error.contains(name) && error.contains(value), "{error}");
    }
    let found = read(label::DRIVER, "580.65").expect("a version").expect("it is for a GPU");
    let expected = GpuDemands { provider: "cuda".to_owned(), architectures: None, driver: Some(580), cuda: None };
    assert_eq!(found, expected);
    assert_eq!(gpu(&BTreeMap::new(), Some("cpu".to_owned())).expect("none"), None);
}
