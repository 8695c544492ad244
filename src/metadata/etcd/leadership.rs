//! Who leads among several masters: upstream's key in an etcd cluster, and a number of our own.
//!
//! The key `mooncake-store/CLUSTER/master_view` holds the leader's address as plain text under a
//! lease; its create revision is the version of that view. Who creates the key leads, until the
//! lease is gone. Beside it our masters keep `mooncake-store/CLUSTER/native_life`, a number that
//! grows from leader to leader, written in the same transaction: what one leader numbered is
//! older than what the next one numbers, whatever their clocks say. Its revision also tells whether
//! the present leader is one of ours.
//!
//! Every call blocks its thread, at most until its deadline. Nothing here knows a clock or decides.

use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::time::Deadline;

use super::gateway::{Changed, Condition, Gateway, Kept, PutUnder};
use super::Settings;

/// The present leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// `host:port`, as it wrote it.
    pub address: String,
    /// The version of this view.
    pub revision: i64,
    /// The lease that its key hangs on.
    pub lease: String,
    /// It keeps our number, too, and so our rules about lost leases.
    pub is_ours: bool,
}

/// What lies in the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Board {
    /// Absent while nobody leads.
    pub leader: Option<Leader>,
    /// The number of the last leader of ours.
    pub life: Life,
}

/// A number that grows from leader to leader, with the revision at which it was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// Milliseconds since 1970, or more.
    pub number: u64,
    /// 0 where none was ever written.
    pub revision: i64,
}

/// What became of an attempt to lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// This master leads; the version of the new view.
    Won {
        /// Create revision of the key.
        revision: i64,
    },
    /// Somebody was faster.
    Lost,
}

/// The place in an etcd cluster where one group of masters agrees on a leader.
pub struct Leadership {
    gateway: Gateway,
    view: String,
    life: String,
}

impl Leadership {
    /// Connects to nothing yet. The lease of `settings` is not used.
    ///
    /// # Errors
    ///
    /// A cluster's name that is empty, too long, or holds control characters; an endpoint that is
    /// no address.
    pub fn new(settings: &Settings<'_>, cluster: &str) -> Result<Leadership> {
        let name = cluster.trim_end_matches('/');
        let is_sound = !name.is_empty()
            && name.len() <= limits::NAME_BYTES_MAX
            && !name.chars().any(char::is_control);
        if !is_sound {
            return Err(Error::new(ErrorKind::InvalidArgument, "the cluster's name is no name")
                .with("cluster", name.escape_debug()));
        }
        if settings.endpoints.is_empty() {
            let text = "no etcd endpoint is given";
            return Err(Error::new(ErrorKind::InvalidAddress, text));
        }
        let key = |last: &str| format!("mooncake-store/{name}/{last}");
        let gateway = Gateway::new(settings)?;
        Ok(Leadership { gateway, view: key("master_view"), life: key("native_life") })
    }

    /// The key of the leader's address.
    pub fn key(&self) -> &str {
        &self.view
    }

    /// The present leader, if there is one.
    pub fn leader(&self, end: Deadline) -> Result<Option<Leader>> {
        Ok(self.board(end)?.leader)
    }

    /// The present leader and the last number, of one moment.
    pub fn board(&self, end: Deadline) -> Result<Board> {
        let kept = self.gateway.entries(&[&self.view, &self.life], end)?;
        let mut kept = kept.into_iter();
        let (view, life) = (kept.next().flatten(), kept.next().flatten());
        let life = life.map_or_else(Life::default, |life| Life {
            number: number_of(&life.value),
            revision: life.changed,
        });
        let leader = view.map(|view| leader_of(view, life)).transpose()?;
        Ok(Board { leader, life })
    }

    /// A new lease, and how long the cluster keeps it without being asked to.
    pub fn grant(&self, ttl: Duration, end: Deadline) -> Result<(String, Duration)> {
        Ok(self.gateway.grant_for(ttl, &self.view, end)?)
    }

    /// Leads from now on if nobody does, and if the number is still that of `before`.
    pub fn claim(
        &self,
        address: &str,
        lease: &str,
        before: Life,
        number: u64,
        end: Deadline,
    ) -> Result<Claim> {
        let conditions =
            [Condition::Absent(&self.view), Condition::ChangedAt(&self.life, before.revision)];
        let number = number.to_string();
        let changes = [
            PutUnder { key: &self.view, value: address.as_bytes(), lease: Some(lease) },
            PutUnder { key: &self.life, value: number.as_bytes(), lease: None },
        ];
        match self.gateway.change(&conditions, &changes, &self.view, end)? {
            Changed::Done { revision } => Ok(Claim::Won { revision }),
            // The same request may have been sent twice, where a connection broke.
            Changed::Not(Some(kept)) if kept.lease == lease => {
                Ok(Claim::Won { revision: kept.created })
            }
            Changed::Not(_) => Ok(Claim::Lost),
        }
    }

    /// Renews a lease; false if it is gone.
    pub fn keep(&self, lease: &str, end: Deadline) -> Result<bool> {
        Ok(self.gateway.keep_alive(lease, end)?)
    }

    /// Ends a lease, and with it the leadership that hangs on it. One that is gone is no error.
    pub fn resign(&self, lease: &str, end: Deadline) -> Result<()> {
        match self.gateway.revoke(lease, end) {
            Err(failure) if failure.is_not_found() => Ok(()),
            other => Ok(other?),
        }
    }
}

fn leader_of(view: Kept, life: Life) -> Result<Leader> {
    let malformed = |text| Error::new(ErrorKind::MetadataMalformed, text);
    if view.value.is_empty() || view.value.len() > limits::NAME_BYTES_MAX {
        return Err(malformed("the leader's address in etcd has an impossible length"));
    }
    let address = String::from_utf8(view.value)
        .map_err(|error| malformed("the leader's address in etcd is no text").caused_by(error))?;
    // Written in one transaction, they have one revision.
    let is_ours = view.created == life.revision;
    Ok(Leader { address, revision: view.created, lease: view.lease, is_ours })
}

/// Whatever else anybody wrote there counts as nothing.
fn number_of(value: &[u8]) -> u64 {
    let text = std::str::from_utf8(value).unwrap_or("");
    text.parse().ok().filter(|number| *number <= limits::MASTER_LIFE_MAX).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::tls::TlsFiles;

    fn new(cluster: &str, endpoints: &[&str]) -> Result<Leadership> {
        let endpoints: Vec<String> = endpoints.iter().map(|text| text.to_string()).collect();
        let settings = Settings {
            endpoints: &endpoints,
            tls: false,
            username: "",
            password: "",
            files: TlsFiles::default(),
            lease: None,
        };
        Leadership::new(&settings, cluster)
    }

    #[test]
    fn the_key_is_upstreams() {
        let place = new("mooncake/", &["127.0.0.1:1"]).unwrap();
        assert_eq!(place.key(), "mooncake-store/mooncake/master_view");
        for (cluster, endpoints) in [("", vec!["a:1"]), ("/", vec!["a:1"]), ("a\n", vec!["a:1"])] {
            let error = new(cluster, &endpoints).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{cluster:?}");
        }
        assert_eq!(new("a", &[]).err().unwrap().kind(), ErrorKind::InvalidAddress);
    }

    #[test]
    fn what_others_wrote_is_checked() {
        let kept = |value: &[u8]| Kept {
            value: value.to_vec(),
            created: 7,
            changed: 7,
            lease: "5".to_owned(),
        };
        let leader = leader_of(kept(b"host:50051"), Life { number: 1, revision: 7 }).unwrap();
        assert!(leader.is_ours && leader.revision == 7 && leader.address == "host:50051");
        assert!(!leader_of(kept(b"h:1"), Life { number: 1, revision: 6 }).unwrap().is_ours);
        for bad in [&b""[..], b"\xff", &[b'a'; limits::NAME_BYTES_MAX + 1]] {
            assert!(leader_of(kept(bad), Life::default()).is_err());
        }
        assert_eq!(number_of(b"1764"), 1764);
        for bad in ["", "-1", "x", "99999999999999999999", "9000000000000000"] {
            assert_eq!(number_of(bad.as_bytes()), 0, "{bad}");
        }
    }
}
