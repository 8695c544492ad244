//! Notifications: short named messages between engines, next to the data.

use std::ffi::c_char;
use std::time::Duration;

use super::boundary::{self, bad_argument, guard_ok, guard_value, on_ok, Out};
use super::engine::{handle_out, mc_engine_t};
use super::handle::{Kind, Noun, Table};
use super::segment::{from_c, mc_segment_t, timeout_or};
use super::status::mc_status_t;
use crate::engine::{Engine, Notification};
use crate::error::Result;
use crate::limits;

/// A list of notifications that arrived. Opaque; it belongs to no engine.
pub struct mc_notifications_t {
    _private: [u8; 0],
}

const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// What `mc_notify_take` took. Texts end with NUL behind their length, for the convenience of C.
pub(crate) struct Notifications(Box<[Notification]>);

static LISTS: Table<Notifications> = Table::new(Kind::Notifications);

impl Noun for Notifications {
    type Opaque = mc_notifications_t;
    const WORD: &'static str = "list of notifications";

    fn table() -> &'static Table<Self> {
        &LISTS
    }
}

/// Sends a notification to the engine that owns a segment and waits until it has it.
///
/// @param engine       the engine.
/// @param segment      the segment of the receiver.
/// @param name         bytes, copied; upstream peers take UTF-8 text only.
/// @param name_len     how many, at most 1 MiB.
/// @param message      as name.
/// @param message_len  as name_len.
/// @param timeout_ms   longest time; 0 = 5000.
///
/// Threads: any. Blocks: until the answer, longest timeout_ms. Returns: MC_OK;
/// MC_ERR_INVALID_ARGUMENT; MC_ERR_INVALID_HANDLE; MC_ERR_UNSUPPORTED when the bytes are not UTF-8;
/// MC_ERR_REJECTED when the receiver takes none; MC_ERR_UNREACHABLE; MC_ERR_CONNECTION_LOST;
/// MC_ERR_TIMEOUT; MC_ERR_SHUTDOWN.
/// Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_notify_send(
    engine: *mut mc_engine_t,
    segment: mc_segment_t,
    name: *const c_char,
    name_len: usize,
    message: *const c_char,
    message_len: usize,
    timeout_ms: u32,
) -> mc_status_t {
    on_ok(engine, |engine: &Engine| {
        // SAFETY: the caller's promise about name and message.
        let notification = unsafe { notification(name, name_len, message, message_len) }?;
        engine.notify(from_c(segment), &notification, timeout_or(timeout_ms, SEND_TIMEOUT))
    })
}

/// Takes all notifications that arrived since the last call, oldest first.
///
/// @param engine             the engine.
/// @param notifications_out  receives the list, perhaps empty, owned by the caller until
///                           mc_notifications_destroy; NULL on failure.
///
/// Threads: any; each notification is given out once. Blocks: no.
/// Returns: MC_OK; MC_ERR_INVALID_ARGUMENT; MC_ERR_LIMIT_REACHED. Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_notify_take(
    engine: *mut mc_engine_t,
    notifications_out: *mut *mut mc_notifications_t,
) -> mc_status_t {
    on_ok(engine, |engine: &Engine| {
        let out = handle_out(notifications_out, "notifications_out")?;
        let mut taken = engine.take_notifications();
        for notification in &mut taken {
            notification.name.push(0);
            notification.message.push(0);
        }
        out.set(LISTS.insert(Notifications(taken.into_boxed_slice()))?);
        Ok(())
    })
}

/// Counts the notifications in a list.
///
/// @param notifications  the list.
/// @return how many; 0 for a handle that is not a list.
///
/// Threads: any. Blocks: no. Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_notifications_count(notifications: *const mc_notifications_t) -> usize {
    guard_value(0, || LISTS.pin(notifications).map_or(0, |list| list.0.len()))
}

/// Gives one notification of a list.
///
/// @param notifications    the list.
/// @param index            from 0.
/// @param name_out         receives the name; belongs to the list and is valid until that is
///                         destroyed. A NUL follows its last byte.
/// @param name_len_out     receives its length without that NUL; may be NULL.
/// @param message_out      receives the message, as name_out.
/// @param message_len_out  receives its length, as name_len_out.
///
/// Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_ARGUMENT. Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_notifications_get(
    notifications: *const mc_notifications_t,
    index: usize,
    name_out: *mut *const c_char,
    name_len_out: *mut usize,
    message_out: *mut *const c_char,
    message_len_out: *mut usize,
) -> mc_status_t {
    on_ok(notifications, |list: &Notifications| {
        let name_out = Out::required(name_out, "name_out")?;
        let name_len_out = Out::optional(name_len_out, "name_len_out")?;
        let message_out = Out::required(message_out, "message_out")?;
        let message_len_out = Out::optional(message_len_out, "message_len_out")?;
        let Some(notification) = list.0.get(index) else {
            return Err(bad_argument("index", "is beyond the list")
                .with("index", index)
                .with("count", list.0.len()));
        };
        name_out.set(notification.name.as_ptr().cast());
        name_len_out.set(notification.name.len() - 1);
        message_out.set(notification.message.as_ptr().cast());
        message_len_out.set(notification.message.len() - 1);
        Ok(())
    })
}

/// Destroys a list of notifications and the texts it gave out.
///
/// @param notifications  the list; NULL does nothing.
///
/// Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_HANDLE when it was destroyed before.
/// Since: 0.1.
#[no_mangle]
pub unsafe extern "C" fn mc_notifications_destroy(
    notifications: *mut mc_notifications_t,
) -> mc_status_t {
    guard_ok(|| {
        if notifications.is_null() {
            return Ok(());
        }
        LISTS.close(notifications).map(drop)
    })
}

/// A notification from its parts in C.
///
/// # Safety
/// The parts are readable during the call.
pub(crate) unsafe fn notification(
    name: *const c_char,
    name_len: usize,
    message: *const c_char,
    message_len: usize,
) -> Result<Notification> {
    let longest = limits::NOTIFICATION_BYTES_MAX;
    // SAFETY: the caller's promise.
    let name = unsafe { boundary::bytes(name, name_len, longest, "name") }?;
    // SAFETY: the caller's promise.
    let message = unsafe { boundary::bytes(message, message_len, longest, "message") }?;
    Ok(Notification { name, message })
}
