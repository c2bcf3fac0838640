//! What can go wrong when a container is started.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{ContainerImage, ExitStatus, LogLine};

/// Why a container could not be started, reached or stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// No engine answers.
    #[error("no container engine answers at {}", .tried.join(", "))]
    NoEngine {
        /// The addresses tried, each with the reason.
        tried: Vec<String>,
    },
    /// `DOCKER_HOST` says something that is not understood.
    #[error("`{found}` is no address of a container engine, expected unix:///PATH, tcp://HOST:PORT or http://HOST:PORT")]
    Endpoint {
        /// The address.
        found: String,
    },
    /// The engine lacks the image.
    #[error("the container engine at {endpoint} has no image `{image}`")]
    ImageMissing {
        /// The image's name.
        image: String,
        /// The engine's address.
        endpoint: String,
    },
    /// The engine refused something.
    #[error("the container engine at {endpoint} failed to {action}")]
    Engine {
        /// What was asked.
        action: &'static str,
        /// The engine's address.
        endpoint: String,
        /// What it answered.
        source: Box<bollard::errors::Error>,
    },
    /// The runner cannot start from what it was given.
    #[error("the {runner} runner starts from {expected}, found {found}")]
    Unsuited {
        /// Which runner.
        runner: &'static str,
        /// From what it starts.
        expected: &'static str,
        /// What the specification names.
        found: ContainerImage,
    },
    /// A port is taken.
    #[error("port {port} of 127.0.0.1 is already in use")]
    PortInUse {
        /// Which.
        port: u16,
    },
    /// Where the container's server is cannot be found out.
    #[error("the container engine at {endpoint} published no address for port {port}")]
    NoAddress {
        /// The engine's address.
        endpoint: String,
        /// The container's port.
        port: u16,
    },
    /// The kernel refused a step.
    #[error("the kernel refused to {step}")]
    Refused {
        /// What was to be done, and to what.
        step: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The user of the image's config is not understood or not known.
    #[error("the image's user is `{found}`: {reason}")]
    User {
        /// As the config writes it.
        found: String,
        /// What is wrong with it.
        reason: UserProblem,
    },
    /// A limit makes no sense.
    #[error("the limit `{name}` is {found}, expected {expected}")]
    Limit {
        /// Which limit.
        name: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        expected: &'static str,
    },
    /// Nothing to run.
    #[error("the image has neither an entry point nor a command")]
    NoProgram,
    /// The program is not in the image.
    #[error("the image has no program `{program}`{}", path.as_ref().map(|path| format!(" in its PATH, {path}")).unwrap_or_default())]
    ProgramMissing {
        /// As the image's config names it.
        program: String,
        /// Where it was looked for, where its name is no path.
        path: Option<String>,
    },
    /// The program is in the image and cannot be executed.
    #[error("the image's program `{program}` cannot be executed")]
    Program {
        /// Its path in the image.
        program: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The container's folder or the helper program is not there.
    #[error("failed to open {}", path.display())]
    Missing {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The helper process could not be started or spoken to.
    #[error("failed to start the helper process `{program}`")]
    Helper {
        /// Its program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// The helper process ended before the container did.
    #[error("the helper process ended early: {detail}")]
    HelperLost {
        /// How, with what it wrote.
        detail: String,
    },
    /// The container ended before it answered.
    #[error("the container ended before it answered: {status}{}", tail(log))]
    Exited {
        /// How.
        status: ExitStatus,
        /// Its last lines.
        log: Vec<LogLine>,
    },
    /// The container does not answer.
    #[error("{address}{path} did not answer 200 within {waited:?}, the last attempt: {last}{}", tail(log))]
    NotReady {
        /// The server's address.
        address: SocketAddr,
        /// The path asked for.
        path: String,
        /// How long it was asked.
        waited: Duration,
        /// The last answer or error.
        last: String,
        /// The container's last lines.
        log: Vec<LogLine>,
    },
    /// A killed container is still there.
    #[error("the container's process {} is still there {waited:?} after it was killed", pid.map_or("?".to_owned(), |pid| pid.to_string()))]
    Unkillable {
        /// Its process.
        pid: Option<u32>,
        /// How long it was waited for.
        waited: Duration,
    },
}

/// What is wrong with a user in an image's config.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UserProblem {
    /// No such line.
    #[error("the image's /etc/passwd has no such user")]
    UnknownUser,
    /// No such line.
    #[error("the image's /etc/group has no such group")]
    UnknownGroup,
    /// Not of the form.
    #[error("expected `uid`, `uid:gid` or names from the image's /etc/passwd and /etc/group")]
    Malformed,
}

impl RunnerError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::NoEngine { .. } => "set DOCKER_HOST, start the engine, or use the embedded runner, which needs none",
            Self::Endpoint { found } if found.starts_with("ssh://") || found.starts_with("https://") => {
                "forward the engine's socket to this machine, for instance with `ssh -L`, and name that"
            }
            Self::ImageMissing { .. } => "put the image there first with `imgbuild push IMAGE docker-daemon:NAME:TAG`",
            Self::PortInUse { .. } => "name another port, or none for a free one",
            Self::Refused { source, step } => return refusal_hint(step, source),
            Self::ProgramMissing { .. } => "the image's config names a program that none of its layers holds",
            Self::Program { source, .. } => match source.raw_os_error() {
                Some(libc::ENOENT) => "the program's ELF interpreter, such as /lib64/ld-linux-x86-64.so.2, is not in the image",
                Some(libc::ENOEXEC) => "the program is not an executable for this machine's architecture",
                Some(libc::EACCES) => "the program needs execute permission for the image's user, in every folder on its path",
                _ => return None,
            },
            Self::Exited { status, .. } if status.out_of_memory => "give it more memory",
            _ => return None,
        };
        Some(text.to_owned())
    }
}

/// What a refused step usually means, with the settings of this machine where they tell.
fn refusal_hint(step: &str, source: &io::Error) -> Option<String> {
    let setting = |path: &str| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    if !step.contains("user namespace") && !step.contains("identifiers") {
        return matches!(source.raw_os_error(), Some(libc::EPERM | libc::EACCES))
            .then(|| "run as root, or use a container engine with `--runner docker`".to_owned());
    }
    let culprit = if setting("/proc/sys/kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        "kernel.unprivileged_userns_clone is 0: set it to 1"
    } else if setting("/proc/sys/user/max_user_namespaces").as_deref() == Some("0") {
        "user.max_user_namespaces is 0: raise it"
    } else if setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1") {
        "kernel.apparmor_restrict_unprivileged_userns is 1: set it to 0 or give this program an AppArmor profile"
    } else {
        "the kernel may lack user namespaces, or a container's seccomp profile or a changed root forbids them"
    };
    Some(format!("{culprit}; else run as root, or use a container engine with `--runner docker`"))
}

fn tail(log: &[LogLine]) -> String {
    use std::fmt::Write as _;
    if log.is_empty() {
        return "; it wrote nothing".to_owned();
    }
    log.iter().fold("; its last lines:".to_owned(), |mut text, line| {
        write!(text, "\n  {}", line.text).expect("a String takes any text");
        text
    })
}
