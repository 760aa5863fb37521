//! The view between the watch and our own writes: neither may bring back what is over.

use std::sync::Arc;

use diolkos_api::client::Event;
use diolkos_controllers::object::{Key, KindName, Object};
use diolkos_controllers::view::{News, View};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::model::Model;

fn pod(version: i64) -> Pod {
    let mut pod = Pod::default();
    pod.metadata.name = Some("p".into());
    pod.metadata.namespace = Some("default".into());
    pod.metadata.uid = Some("1".into());
    pod.metadata.resource_version = Some(version.to_string());
    pod
}

fn key() -> Key {
    Key::new(KindName::Pod, "default", "p")
}

/// An empty view, and the time.
fn start() -> (View, diolkos_api::Timestamp) {
    let model = Model::new();
    (model.view, model.now)
}

fn watch(view: &mut View, event: Event<Pod>, now: diolkos_api::Timestamp) -> usize {
    view.apply(News::Pod(event), now).len()
}

#[test]
fn the_answer_to_a_write_does_not_bring_back_what_the_watch_saw_end() {
    let (mut view, now) = start();
    watch(&mut view, Event::Applied(pod(5)), now);
    watch(&mut view, Event::Deleted(pod(7)), now);
    assert_eq!(view.insert(Object::Pod(Arc::new(pod(6))), now), vec![]);
    assert_eq!(view.get(&key()), None);
}

#[test]
fn our_own_write_counts_at_once_and_its_echo_is_no_news() {
    let (mut view, now) = start();
    assert_eq!(view.insert(Object::Pod(Arc::new(pod(6))), now).len(), 1);
    assert_eq!(watch(&mut view, Event::Applied(pod(6)), now), 0);
    assert_eq!(watch(&mut view, Event::Applied(pod(5)), now), 0, "older news");
    assert_eq!(watch(&mut view, Event::Applied(pod(8)), now), 1);
}

#[test]
fn what_we_deleted_stays_ending_whatever_older_news_say() {
    let (mut view, now) = start();
    watch(&mut view, Event::Applied(pod(5)), now);
    assert!(view.ending(&key(), "1", now).is_some());
    assert_eq!(watch(&mut view, Event::Applied(pod(6)), now), 0);
    assert!(view.get(&key()).unwrap().metadata().deletion_timestamp.is_some());
    let mut ending = pod(7);
    ending.metadata.deletion_timestamp = Some(Time(now));
    assert_eq!(watch(&mut view, Event::Applied(ending), now), 1);
    assert_eq!(watch(&mut view, Event::Deleted(pod(8)), now), 1);
    assert_eq!(view.get(&key()), None);
}

#[test]
fn a_new_list_replaces_all() {
    let (mut view, now) = start();
    watch(&mut view, Event::Applied(pod(5)), now);
    assert_eq!(watch(&mut view, Event::Restarted(Vec::new()), now), 1);
    assert_eq!(view.get(&key()), None);
}
