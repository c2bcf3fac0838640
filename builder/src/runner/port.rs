//! Ports of this machine's loopback.

use std::io;
use std::net::{Ipv4Addr, TcpListener};

use super::RunnerError;

/// The wished port if nothing listens there, or a free one. Another program may still take it before the container does.
pub(super) fn choose(wished: Option<u16>) -> Result<u16, RunnerError> {
    let port = wished.unwrap_or(0);
    let refused = |source| RunnerError::Refused { step: format!("listen at 127.0.0.1:{port}"), source };
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|listener| listener.local_addr()) {
        Ok(address) => Ok(address.port()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(RunnerError::PortInUse { port }),
        Err(error) => Err(refused(error)),
    }
}
