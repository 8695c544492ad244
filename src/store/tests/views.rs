//! Objects handed out without a copy: they stay what they are until they are given back.

use super::{eventually, pool, put, value, MIB};
use crate::pool::replica::Place;
use crate::pool::segment::SegmentEvent;
use crate::store::{Dialect, Store, StoreBuffer};

use super::fakes::FakeMaster;

fn view(store: &Store, key: &[u8]) -> StoreBuffer {
    store.get_buffers(&[key], None).unwrap().remove(0).unwrap()
}

/// The master drops an object of "a", and says so.
fn drop_object(master: &FakeMaster, key: &[u8]) {
    let mut state = master.state.lock();
    let entry = state.objects.remove(key).unwrap();
    let Place::Memory(ranges) = &entry.replicas[0].place else { panic!("no memory") };
    let segment = state.segments.iter().find(|(s, ..)| s.endpoint == "a").unwrap().0.id;
    let (address, generation) = (ranges[0].address, entry.generation);
    drop(state);
    master.tell(vec![SegmentEvent::Gone { segment, address, generation }]);
}

fn kept(master: &FakeMaster) -> usize {
    master.state.lock().kept.len()
}

#[test]
fn an_own_object_is_viewed_and_another_one_is_read_once() {
    let (_, _, stores) = pool(Dialect::Native, &["a", "b"]);
    let bytes = value(3, 100_000);
    put(&stores[0], b"k", &bytes).unwrap();
    let before = stores[0].metrics().copies.get();
    let (one, two) = (view(&stores[0], b"k"), view(&stores[0], b"k"));
    assert!(one.is_view() && two.is_view());
    assert_eq!((one.address(), one.length()), (two.address(), 100_000));
    assert_eq!(stores[0].metrics().copies.get(), before);
    assert_eq!(stores[0].metrics().views.get(), 2);
    assert!(one.to_vec().unwrap() == bytes);
    let far = view(&stores[1], b"k");
    assert!(!far.is_view() && far.to_vec().unwrap() == bytes);
    // Upstream's master cannot be told to leave it there.
    let (_, _, stores) = pool(Dialect::Upstream, &["a"]);
    put(&stores[0], b"k", &bytes).unwrap();
    let copied = view(&stores[0], b"k");
    assert!(!copied.is_view() && copied.to_vec().unwrap() == bytes);
}

#[test]
fn a_viewed_range_is_kept_until_the_last_reader_is_done() {
    let (master, _, stores) = pool(Dialect::Native, &["a"]);
    put(&stores[0], b"k", b"hello").unwrap();
    put(&stores[0], b"l", b"other").unwrap();
    let (one, two) = (view(&stores[0], b"k"), view(&stores[0], b"k"));
    drop_object(&master, b"k");
    drop_object(&master, b"l");
    eventually(|| kept(&master) == 1);
    drop(one);
    // Given back by another thread, after the object is gone.
    assert_eq!(two.to_vec().unwrap(), b"hello");
    std::thread::spawn(move || drop(two)).join().unwrap();
    eventually(|| kept(&master) == 0);
}

#[test]
fn a_detached_buffer_may_be_changed_and_the_object_stays() {
    let (master, _, stores) = pool(Dialect::Native, &["a"]);
    put(&stores[0], b"k", b"hello").unwrap();
    let viewed = view(&stores[0], b"k");
    let before = viewed.address();
    viewed.detach().unwrap();
    assert!(!viewed.is_view() && viewed.address() != before);
    viewed.detach().unwrap();
    let range = crate::store::Range { address: viewed.address(), length: 5 };
    crate::store::buffers::copy(crate::store::Range::of(b"other"), range).unwrap();
    assert_eq!(stores[0].get(b"k").unwrap(), b"hello");
    assert_eq!(viewed.to_vec().unwrap(), b"other");
    // Nothing is viewed any more.
    drop_object(&master, b"k");
    eventually(|| stores[0].health().unwrap().objects_held == 0);
    assert_eq!(kept(&master), 0);
}

#[test]
fn a_master_that_comes_back_is_told_what_is_viewed() {
    let (master, _, stores) = pool(Dialect::Native, &["a"]);
    put(&stores[0], b"k", b"hello").unwrap();
    let viewed = view(&stores[0], b"k");
    master.restart();
    eventually(|| master.state.lock().segments.len() == 1);
    assert_eq!(kept(&master), 1);
    eventually(|| master.state.lock().reports.len() == 1);
    assert_eq!(viewed.to_vec().unwrap(), b"hello");
}

#[test]
fn a_view_outlives_the_client() {
    let (_, _, mut stores) = pool(Dialect::Native, &["a"]);
    put(&stores[0], b"k", b"hello").unwrap();
    let viewed = view(&stores[0], b"k");
    assert!(viewed.is_view());
    stores[0].close();
    stores.clear();
    assert_eq!(viewed.to_vec().unwrap(), b"hello");
}

#[test]
fn views_do_not_take_the_whole_segment() {
    let (_, _, stores) = pool(Dialect::Native, &["a"]);
    let mut all = Vec::new();
    for index in 0..12u8 {
        put(&stores[0], &[index], &value(index, MIB as usize)).unwrap();
    }
    for index in 0..9u8 {
        match stores[0].get_buffers(&[&[index]], None).unwrap().remove(0) {
            Ok(buffer) => all.push(buffer),
            Err(error) => panic!("{error}"),
        }
    }
    // Half of 16 MiB is viewed; the next one is read into the local buffer.
    assert_eq!(all.iter().filter(|buffer| buffer.is_view()).count(), 8);
    assert!(all.iter().enumerate().all(|(i, b)| b.to_vec().unwrap()[0] == i as u8));
}
