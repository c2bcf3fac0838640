//! What a container executes: [`Command`], from the image's config and the specification.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use super::user::Identity;
use super::{ContainerSpec, RunnerError};

/// Where programs are looked for in an image that does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program with its arguments, variables and folder.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Command {
    /// The program, then its arguments; never empty.
    pub arguments: Vec<String>,
    pub environment: BTreeMap<String, String>,
    pub folder: String,
}

impl Command {
    /// Puts entry point, command and variables together as engines do.
    pub fn new(spec: &ContainerSpec, identity: &Identity) -> Result<Self, RunnerError> {
        let config = &spec.config.config;
        let mut arguments = config.entrypoint.clone().unwrap_or_default();
        if spec.arguments.is_empty() {
            arguments.extend(config.cmd.iter().flatten().cloned());
        } else {
            arguments.extend(spec.arguments.iter().cloned());
        }
        if arguments.first().is_none_or(String::is_empty) {
            return Err(RunnerError::NoProgram);
        }
        let mut environment = BTreeMap::from([
            ("PATH".to_owned(), PATH.to_owned()),
            ("HOME".to_owned(), identity.home.clone().unwrap_or_else(|| "/".to_owned())),
        ]);
        environment.extend(
            config
                .env
                .iter()
                .flatten()
                .filter_map(|line| line.split_once('='))
                .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        environment.extend(spec.environment.clone());
        let folder = config.working_dir.clone().filter(|folder| !folder.is_empty()).unwrap_or_else(|| "/".to_owned());
        Ok(Self { arguments, environment, folder })
    }

    /// Adds the variables by which a server that shares this machine's network learns where to listen.
    pub fn listen_at(&mut self, spec: &ContainerSpec, port: u16) {
        for (name, value) in listen_variables(spec, IpAddr::V4(Ipv4Addr::LOCALHOST), port) {
            self.environment.insert(name, value);
        }
    }
}

/// The variables by which a server that shares this machine's network learns where to listen, but those that the user set.
pub(super) fn listen_variables(spec: &ContainerSpec, host: IpAddr, port: u16) -> Vec<(String, String)> {
    let pairs = [(&spec.listen.port, port.to_string()), (&spec.listen.host, host.to_string())];
    pairs
        .into_iter()
        .filter_map(|(name, value)| Some((name.clone()?, value)))
        .filter(|(name, _)| !spec.environment.contains_key(name))
        .collect()
}

/// The limits in the units of the kernel, or why they make no sense.
pub(super) fn check_limits(spec: &ContainerSpec) -> Result<(), RunnerError> {
    if let Some(cpus) = spec.cpus
        && !(cpus.is_finite() && (0.01..=4096.0).contains(&cpus))
    {
        return Err(RunnerError::Limit {
            name: "cpus",
            found: cpus.to_string(),
            expected: "a number of cores from 0.01 to 4096",
        });
    }
    if let Some(memory) = spec.memory
        && !(MEMORY_FLOOR..=i64::MAX as u64).contains(&memory)
    {
        return Err(RunnerError::Limit { name: "memory", found: format!("{memory} bytes"), expected: "at least 6 MiB" });
    }
    Ok(())
}

/// Engines refuse less: a process could not even start.
const MEMORY_FLOOR: u64 = 6 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::tests::config;

    const NOBODY: Identity = Identity { uid: 1, gid: 1, home: None };

    #[test]
    fn entry_point_command_and_variables_are_put_together() {
        let mut spec = ContainerSpec::unpacked("/x", config(&["/serve", "--fast"]));
        spec.config.config.cmd = Some(vec!["a".into(), "b".into()]);
        spec.config.config.env = Some(vec!["PATH=/opt".into(), "A=1=2".into(), "IMGSERVE_PORT=1".into()]);
        let mut command = Command::new(&spec, &NOBODY).expect("valid");
        command.listen_at(&spec, 81);
        assert_eq!(command.arguments, ["/serve", "--fast", "a", "b"]);
        let variable = |command: &Command, name: &str| command.environment.get(name).cloned().unwrap_or_default();
        assert_eq!(variable(&command, "PATH"), "/opt");
        assert_eq!(variable(&command, "HOME"), "/");
        assert_eq!(variable(&command, "A"), "1=2");
        assert_eq!(variable(&command, "IMGSERVE_PORT"), "81");
        assert_eq!(variable(&command, "IMGSERVE_ADDRESS"), "127.0.0.1");
        spec.arguments = vec!["c".into()];
        spec.environment.insert("IMGSERVE_ADDRESS".into(), "0.0.0.0".into());
        let mut command = Command::new(&spec, &NOBODY).expect("valid");
        command.listen_at(&spec, 81);
        assert_eq!(command.arguments, ["/serve", "--fast", "c"]);
        assert_eq!(variable(&command, "IMGSERVE_ADDRESS"), "0.0.0.0");
    }

    #[test]
    fn an_image_without_a_program_and_senseless_limits_are_refused() {
        let mut spec = ContainerSpec::unpacked("/x", config(&[]));
        assert!(matches!(Command::new(&spec, &NOBODY), Err(RunnerError::NoProgram)));
        for cpus in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            spec.cpus = Some(cpus);
            assert!(matches!(check_limits(&spec), Err(RunnerError::Limit { name: "cpus", .. })), "{cpus}");
        }
        spec.cpus = Some(0.5);
        for memory in [0, 1 << 20, u64::MAX] {
            spec.memory = Some(memory);
            assert!(matches!(check_limits(&spec), Err(RunnerError::Limit { name: "memory", .. })), "{memory}");
        }
    }
}
