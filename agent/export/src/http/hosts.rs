//! Hosts that a request may name.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Names that are allowed in addition to addresses and `localhost`.
#[derive(Debug, Clone, Default)]
pub struct Hosts(Vec<String>);

impl Hosts {
    /// Allows addresses, `localhost` and these names.
    pub fn new(names: Vec<String>) -> Self {
        Self(names)
    }

    /// True if a request may name this host. A request without a host comes from no browser.
    pub fn has(&self, host: Option<&str>) -> bool {
        let Some(host) = host else { return true };
        if let Some((address, port)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            return address.parse::<Ipv6Addr>().is_ok() && is_port(port);
        }
        let (name, port) = host.find(':').map_or((host, ""), |colon| host.split_at(colon));
        let name = name.strip_suffix('.').unwrap_or(name);
        let is = |allowed: &str| allowed.eq_ignore_ascii_case(name);
        let known = || is("localhost") || self.0.iter().any(|allowed| is(allowed));
        is_port(port) && (name.parse::<Ipv4Addr>().is_ok() || known())
    }
}

/// True for an empty text, or a colon and a port.
fn is_port(text: &str) -> bool {
    let digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    text.is_empty() || text.strip_prefix(':').is_some_and(digits)
}
