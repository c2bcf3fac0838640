//! Proxies between this machine and registries, from the environment: [`Proxies`].

use std::fmt;
use std::net::IpAddr;

use url::{Host, Url};

use super::secret::Secret;

/// Which proxies to use. Loopback addresses are always reached directly.
#[derive(Clone, Default)]
pub struct Proxies {
    https: Option<Secret>,
    http: Option<Secret>,
    exceptions: Vec<String>,
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxies")
            .field("https", &self.https)
            .field("http", &self.http)
            .field("exceptions", &self.exceptions)
            .finish()
    }
}

impl Proxies {
    /// No proxy at all.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Proxies for https and http, as `http://[user:password@]host:port`, and the hosts reached without, as in `NO_PROXY`.
    #[must_use]
    pub fn new(https: Option<Secret>, http: Option<Secret>, exceptions: &str) -> Self {
        let exceptions = exceptions.split(',').map(|entry| entry.trim().to_ascii_lowercase()).filter(|entry| !entry.is_empty());
        Self { https, http, exceptions: exceptions.collect() }
    }

    /// Those of `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in capitals or small letters.
    #[must_use]
    pub fn from_environment() -> Self {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    pub(crate) fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| {
            [name.to_owned(), name.to_ascii_lowercase()].iter().find_map(|name| variable(name).filter(|value| !value.is_empty()))
        };
        let chosen = |name| set(name).or_else(|| set("ALL_PROXY")).map(Secret::new);
        Self::new(chosen("HTTPS_PROXY"), chosen("HTTP_PROXY"), &set("NO_PROXY").unwrap_or_default())
    }

    /// The proxy for an address.
    pub(crate) fn for_url(&self, url: &Url) -> Option<&Secret> {
        let proxy = if url.scheme() == "https" { &self.https } else { &self.http };
        proxy.as_ref().filter(|_| !is_loopback(url) && !self.exceptions.iter().any(|entry| matches(entry, url)))
    }
}

/// Whether an address is on this machine by its name alone.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Whether an entry of `NO_PROXY` covers an address: `*`, a network, an address, or a domain with all below it; a port narrows it.
fn matches(entry: &str, url: &Url) -> bool {
    if entry == "*" {
        return true;
    }
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    if let (Some((network, bits)), Ok(address)) = (entry.split_once('/'), host.parse::<IpAddr>()) {
        return in_network(network, bits, address);
    }
    let (name, port) = match entry.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name, port.parse::<u16>().ok()),
        _ => (entry, None),
    };
    if port.is_some() && port != url.port_or_known_default() {
        return false;
    }
    let name = name.trim_matches(['[', ']']).trim_start_matches("*.").trim_start_matches('.');
    host == name || host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'))
}

fn in_network(network: &str, bits: &str, address: IpAddr) -> bool {
    let wide = |address: IpAddr| match address {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)) << 96, 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    };
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else { return false };
    let ((network, width), (address, address_width)) = (wide(network), wide(address));
    if width != address_width || bits > width {
        return false;
    }
    bits == 0 || (network ^ address) >> (128 - bits) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        Proxies::from_variables(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    fn chosen<'a>(proxies: &'a Proxies, url: &str) -> Option<&'a str> {
        proxies.for_url(&url.parse().expect("an address")).map(Secret::expose)
    }

    #[test]
    fn each_scheme_has_its_own_and_loopback_none() {
        let both = proxies(&[("HTTPS_PROXY", "http://s:1"), ("http_proxy", "http://p:1"), ("ALL_PROXY", "http://a:1")]);
        assert_eq!(chosen(&both, "https://registry.example.com/v2/"), Some("http://s:1"));
        assert_eq!(chosen(&both, "http://registry.example.com/v2/"), Some("http://p:1"));
        for local in ["https://localhost:5000/", "http://127.3.2.1/", "https://[::1]:1/"] {
            assert_eq!(chosen(&both, local), None, "{local}");
        }
        assert_eq!(chosen(&proxies(&[("ALL_PROXY", "http://a:1")]), "https://x.example.com/"), Some("http://a:1"));
        assert_eq!(chosen(&proxies(&[]), "https://x.example.com/"), None);
    }

    #[test]
    fn exceptions_cover_domains_networks_and_ports() {
        let direct =
            |entries: &str, url: &str| chosen(&proxies(&[("ALL_PROXY", "http://a:1"), ("NO_PROXY", entries)]), url).is_none();
        for (entries, url) in [
            ("*", "https://registry.example.com/"),
            ("x.org, Example.com", "https://registry.example.com/"),
            (".example.com", "https://registry.example.com/"),
            ("*.example.com", "https://registry.example.com:5000/"),
            ("example.com:5000", "https://registry.example.com:5000/"),
            ("10.0.0.0/8", "https://10.20.30.40/"),
            ("fd00::/8", "https://[fd12::1]:5000/"),
            ("10.1.2.3", "https://10.1.2.3/"),
        ] {
            assert!(direct(entries, url), "{entries} {url}");
        }
        for (entries, url) in [
            ("ample.com", "https://registry.example.com/"),
            ("example.com:443", "https://registry.example.com:5000/"),
            ("10.0.0.0/8", "https://11.0.0.1/"),
            ("10.0.0.0/99", "https://10.0.0.1/"),
            ("", "https://registry.example.com/"),
        ] {
            assert!(!direct(entries, url), "{entries} {url}");
        }
    }

    #[test]
    fn debug_hides_a_proxys_password() {
        assert!(!format!("{:?}", proxies(&[("ALL_PROXY", "http://me:hunter2@a:1")])).contains("hunter2"));
    }
}
