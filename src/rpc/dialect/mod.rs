//! Dialects: calls and answers to bodies of frames and back. Pure.
//!
//! A function is named by the first bytes of the MD5 of its name, whatever its arguments, so all of
//! upstream's versions share their function ids and differ by the type code of the arguments. The
//! native functions have names of their own. So every request says its dialect, except upstream's
//! `ServiceReady`, whose bytes are the same everywhere: there the port decides.
//!
//! To add a version of upstream: a file beside [`upstream_0_3_7`] with the same functions, a
//! variant of [`Dialect`], and the arms that the compiler then asks for.

pub mod native;
pub mod upstream_0_3_7;

use std::fmt;
use std::sync::LazyLock;

use crate::error::{Error, ErrorKind};

use super::frame::Fault;
use super::look::{is_look, Look, Seen};
use super::message::{Call, Method, Reply};
use super::pack::Malformed;
use super::shape::md5_head;

/// Who speaks how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Ours.
    Native,
    /// Upstream 0.3.7.
    Upstream0_3_7,
}

/// The versions of upstream, in the order in which a request is compared with them.
const UPSTREAM: [Dialect; 1] = [Dialect::Upstream0_3_7];

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dialect::Native => "native",
            Dialect::Upstream0_3_7 => "0.3.7",
        })
    }
}

/// The number under which a function is called.
pub fn function_id(name: &str) -> u32 {
    md5_head(name.as_bytes())
}

/// Upstream's name of a method, without what stands before all of them.
pub fn upstream_name(method: Method) -> Option<&'static str> {
    Some(match method {
        Method::ServiceReady => "ServiceReady",
        Method::StorageDirectory => "GetFsdir",
        Method::Ping => "Ping",
        Method::Exists => "ExistKey",
        Method::BatchExists => "BatchExistKey",
        Method::Lookup => "GetReplicaList",
        Method::BatchLookup => "BatchGetReplicaList",
        Method::LookupByPattern => "GetReplicaListByRegex",
        Method::PutStart => "PutStart",
        Method::BatchPutStart => "BatchPutStart",
        Method::PutEnd => "PutEnd",
        Method::BatchPutEnd => "BatchPutEnd",
        Method::PutRevoke => "PutRevoke",
        Method::BatchPutRevoke => "BatchPutRevoke",
        Method::Remove => "Remove",
        Method::RemoveByPattern => "RemoveByRegex",
        Method::RemoveAll => "RemoveAll",
        Method::Mount => "MountSegment",
        Method::Remount => "ReMountSegment",
        Method::Unmount => "UnmountSegment",
        Method::BatchRemove
        | Method::Greet
        | Method::Attend
        | Method::Report
        | Method::Suspect
        | Method::Keep
        | Method::Unfinished => return None,
    })
}

struct Functions {
    /// By method: what upstream's and our function is called.
    upstream: [Option<u32>; Method::ALL.len()],
    native: [u32; Method::ALL.len()],
    /// Sorted by the id; true for ours.
    by_id: Vec<(u32, bool, Method)>,
}

static FUNCTIONS: LazyLock<Functions> = LazyLock::new(|| {
    let upstream = Method::ALL.map(|method| {
        let name = upstream_name(method)?;
        Some(function_id(&format!("mooncake::WrappedMasterService::{name}")))
    });
    let native = Method::ALL.map(|method| function_id(&format!("libmooncake::Store::{method:?}")));
    let mut by_id: Vec<_> = Method::ALL
        .into_iter()
        .flat_map(|method| {
            let upstream = upstream[method as usize].map(|id| (id, false, method));
            upstream.into_iter().chain([(native[method as usize], true, method)])
        })
        .collect();
    by_id.sort_unstable_by_key(|(id, ..)| *id);
    Functions { upstream, native, by_id }
});

/// A request that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// How its answer is to be written.
    pub dialect: Dialect,
    /// What it asks for.
    pub call: Call,
}

/// A request that was understood, in the form in which it is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked<'a> {
    /// It only looks keys up.
    Look(Look<'a>),
    /// Anything else.
    Call(Call),
}

impl Asked<'_> {
    /// What it asks for.
    pub fn method(&self) -> Method {
        match self {
            Asked::Look(look) => look.method,
            Asked::Call(call) => call.method(),
        }
    }
}

/// Reads a request. `default` is the dialect of the port, for requests that do not tell.
pub fn decode_request(function: u32, body: &[u8], default: Dialect) -> Result<Request, Fault> {
    let (dialect, asked) = decode_asked(function, body, default)?;
    let call = match asked {
        Asked::Look(look) => look.to_call(),
        Asked::Call(call) => call,
    };
    Ok(Request { dialect, call })
}

/// The same without a copy of keys that are only looked up.
pub fn decode_asked(
    function: u32,
    body: &[u8],
    default: Dialect,
) -> Result<(Dialect, Asked<'_>), Fault> {
    let functions = &FUNCTIONS.by_id;
    let found = functions.binary_search_by_key(&function, |(id, ..)| *id);
    let Some((_, is_native, method)) = found.ok().and_then(|at| functions.get(at)) else {
        return Err(Fault::not_registered());
    };
    let default = if UPSTREAM.contains(&default) { default } else { UPSTREAM[0] };
    let others = UPSTREAM.into_iter().filter(|dialect| *dialect != default);
    let mut versions = std::iter::once(default).chain(others);
    let spoken = match is_native {
        true => Some(Dialect::Native),
        false => versions.find(|dialect| match dialect {
            Dialect::Native => false,
            Dialect::Upstream0_3_7 => upstream_0_3_7::accepts(*method, body),
        }),
    };
    let Some(dialect) = spoken else { return Err(Fault::invalid_arguments()) };
    let asked = match (dialect, is_look(*method)) {
        (Dialect::Native, true) => native::decode_look(*method, body).map(Asked::Look),
        (Dialect::Native, false) => native::decode_request(*method, body).map(Asked::Call),
        (Dialect::Upstream0_3_7, true) => {
            upstream_0_3_7::decode_look(*method, body).map(Asked::Look)
        }
        (Dialect::Upstream0_3_7, false) => {
            upstream_0_3_7::decode_request(*method, body).map(Asked::Call)
        }
    };
    match asked {
        Ok(asked) => Ok((dialect, asked)),
        Err(_) => Err(Fault::invalid_arguments()),
    }
}

/// Appends the body of a request and returns the function to call.
///
/// # Errors
///
/// [`ErrorKind::Unsupported`] where the dialect cannot say it; nothing is appended then.
pub fn encode_request(dialect: Dialect, call: &Call, out: &mut Vec<u8>) -> Result<u32, Error> {
    let method = call.method();
    let unsupported = |what: &'static str| {
        Error::new(ErrorKind::Unsupported, what)
            .with("dialect", dialect)
            .with("call", format_args!("{method:?}"))
    };
    match dialect {
        Dialect::Native => {
            native::encode_request(call, out);
            Ok(FUNCTIONS.native[method as usize])
        }
        Dialect::Upstream0_3_7 => {
            let function = FUNCTIONS.upstream[method as usize]
                .ok_or_else(|| unsupported("the master's dialect has no such call"))?;
            upstream_0_3_7::encode_request(call, out).map_err(unsupported)?;
            Ok(function)
        }
    }
}

/// Appends the body of an answer.
///
/// # Errors
///
/// [`ErrorKind::Internal`] where the answer is not one of that method or of that dialect; nothing
/// is appended then.
pub fn encode_reply(
    dialect: Dialect,
    method: Method,
    reply: &Reply,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    let written = reply.answers(method)
        && match dialect {
            Dialect::Native => {
                native::encode_reply(reply, out);
                true
            }
            Dialect::Upstream0_3_7 => upstream_0_3_7::encode_reply(method, reply, out),
        };
    written.then_some(()).ok_or_else(|| of_another_kind(dialect, method))
}

/// The same for what a look has seen.
///
/// # Errors
///
/// As [`encode_reply`].
pub fn encode_seen(
    dialect: Dialect,
    method: Method,
    seen: &Seen<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    let written = seen.answers(method)
        && match dialect {
            Dialect::Native => {
                native::encode_seen(method, seen, out);
                true
            }
            Dialect::Upstream0_3_7 => upstream_0_3_7::encode_seen(method, seen, out),
        };
    written.then_some(()).ok_or_else(|| of_another_kind(dialect, method))
}

fn of_another_kind(dialect: Dialect, method: Method) -> Error {
    Error::new(ErrorKind::Internal, "the answer is of another kind than the call")
        .with("dialect", dialect)
        .with("call", format_args!("{method:?}"))
}

/// Reads the answer to a call of that method.
pub fn decode_reply(dialect: Dialect, method: Method, body: &[u8]) -> Result<Reply, Malformed> {
    match dialect {
        Dialect::Native => native::decode_reply(method, body),
        Dialect::Upstream0_3_7 => upstream_0_3_7::decode_reply(method, body),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_has_its_own_number() {
        let by_id = &FUNCTIONS.by_id;
        assert_eq!(by_id.len(), 20 + Method::ALL.len());
        assert!(by_id.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(FUNCTIONS.upstream[Method::ServiceReady as usize], Some(0x7b81_bb56));
        for (number, method) in Method::ALL.into_iter().enumerate() {
            assert_eq!(method as usize, number);
        }
    }

    #[test]
    fn what_is_not_a_request_gets_a_fault() {
        let port = Dialect::Upstream0_3_7;
        assert_eq!(decode_request(1, b"", port), Err(Fault::not_registered()));
        let exists = FUNCTIONS.upstream[Method::Exists as usize].unwrap();
        assert_eq!(decode_request(exists, b"", port), Err(Fault::invalid_arguments()));
        let greet = FUNCTIONS.native[Method::Greet as usize];
        assert_eq!(decode_request(greet, b"", port), Err(Fault::invalid_arguments()));
    }
}
