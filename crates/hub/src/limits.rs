//! How many connections there may be: in all, of one user, from one address.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// 0 means no limit.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    pub total_max: usize,
    pub per_user_max: usize,
    pub per_address_max: usize,
}

/// Which limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitError {
    #[error("the server's connection limit is reached; try again later")]
    Total,
    #[error("this user's connection limit is reached; close another connection first")]
    User,
    #[error("this address's connection limit is reached; close another connection first")]
    Address,
}

/// The connections that are open. Bounded by the limits themselves.
#[derive(Debug)]
pub struct Connections {
    limits: ConnectionLimits,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    users: HashMap<Arc<str>, usize>,
    addresses: HashMap<IpAddr, usize>,
}

/// A place among the open connections, given back when it is dropped.
#[derive(Debug)]
pub struct Ticket {
    connections: Arc<Connections>,
    address: IpAddr,
    user: Option<Arc<str>>,
}

impl Connections {
    pub fn new(limits: ConnectionLimits) -> Arc<Connections> {
        Arc::new(Connections {
            limits,
            open: Mutex::default(),
        })
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.open.lock().total
    }

    /// Takes a place for a connection from `address`.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Ticket, LimitError> {
        let mut open = self.open.lock();
        if full(open.total, self.limits.total_max) {
            return Err(LimitError::Total);
        }
        if !take(&mut open.addresses, address, self.limits.per_address_max) {
            return Err(LimitError::Address);
        }
        open.total += 1;
        Ok(Ticket {
            connections: self.clone(),
            address,
            user: None,
        })
    }
}

impl Ticket {
    /// Says whose connection it is; `None` is nobody in particular (anonymous).
    pub fn set_user(&mut self, user: Option<Arc<str>>) -> Result<(), LimitError> {
        if self.user == user {
            return Ok(());
        }
        let mut open = self.connections.open.lock();
        if let Some(user) = &user
            && !take(
                &mut open.users,
                user.clone(),
                self.connections.limits.per_user_max,
            )
        {
            return Err(LimitError::User);
        }
        if let Some(before) = &self.user {
            give_back(&mut open.users, before);
        }
        drop(open);
        self.user = user;
        Ok(())
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut open = self.connections.open.lock();
        open.total -= 1;
        give_back(&mut open.addresses, &self.address);
        if let Some(user) = &self.user {
            give_back(&mut open.users, user);
        }
    }
}

fn full(count: usize, max: usize) -> bool {
    max != 0 && count >= max
}

fn take<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: K, max: usize) -> bool {
    if full(counts.get(&key).copied().unwrap_or(0), max) {
        return false;
    }
    *counts.entry(key).or_insert(0) += 1;
    true
}

fn give_back<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

    #[test]
    fn every_limit_holds_and_is_given_back() {
        let limits = ConnectionLimits {
            total_max: 3,
            per_user_max: 1,
            per_address_max: 2,
        };
        let connections = Connections::new(limits);
        let mut first = connections.admit(HERE).expect("free");
        let mut second = connections.admit(HERE).expect("free");
        assert_eq!(
            connections.admit(HERE).expect_err("full"),
            LimitError::Address
        );
        let _third = connections.admit(THERE).expect("free");
        assert_eq!(
            connections.admit(THERE).expect_err("full"),
            LimitError::Total
        );
        first.set_user(Some("a".into())).expect("free");
        first
            .set_user(Some("a".into()))
            .expect("the same user takes no second place");
        assert_eq!(second.set_user(Some("a".into())), Err(LimitError::User));
        drop(first);
        second.set_user(Some("a".into())).expect("free again");
        assert_eq!(connections.count(), 2);
        assert!(connections.admit(HERE).is_ok());
    }

    #[test]
    fn zero_is_no_limit() {
        let limits = ConnectionLimits {
            total_max: 0,
            per_user_max: 0,
            per_address_max: 0,
        };
        let connections = Connections::new(limits);
        let many: Vec<_> = (0..100)
            .map(|_| connections.admit(HERE).expect("no limit"))
            .collect();
        assert_eq!(connections.count(), many.len());
    }
}
