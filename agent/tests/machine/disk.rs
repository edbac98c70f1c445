//! What is not on the disk is neither acknowledged nor handed over.

use std::fs;

use ace_policies::wire::{FailureCode, FromAgent};

use crate::{sessions::machine, world::Machine};

/// What a full disk does, for everybody: the session's file cannot be written until the directory in its place is removed.
fn break_disk(machine: &Machine) -> std::path::PathBuf {
    let session = format!("state/sessions/{}/session.json", machine.session);
    let file = machine.dir.path().join(session);
    fs::remove_file(&file).unwrap();
    fs::create_dir_all(file.join("in the way")).unwrap();
    file
}

#[tokio::test]
async fn a_message_that_the_disk_does_not_take_is_refused_and_not_acknowledged() {
    let mut machine = machine().await;
    let file = break_disk(&machine);
    let id = machine.push(machine.message("one")).await;
    let failure = machine.done(id).await.unwrap_err();
    assert!(
        failure.message.starts_with("this machine's disk does not take it: "),
        "{}",
        failure.message
    );
    let acknowledged = |said: &FromAgent| matches!(said, FromAgent::Ack { command_id } if *command_id == id);
    assert!(!machine.said.iter().any(acknowledged));
    fs::remove_dir_all(&file).unwrap();
    assert!(
        machine.turn("two").await.contains("turn 1: two"),
        "the CLI saw nothing of it"
    );
    break_disk(&machine);
    machine.stop_session().await;
}

#[tokio::test]
async fn a_message_whose_handing_over_the_disk_does_not_take_is_refused() {
    let mut machine = machine().await;
    machine.command(machine.message("wait for go")).await.unwrap();
    let waiting = machine.push(machine.message("two")).await;
    let acknowledged = |said: &FromAgent| matches!(said, FromAgent::Ack { command_id } if *command_id == waiting);
    machine
        .until("the ack", |machine| machine.said.iter().any(acknowledged))
        .await;
    let file = break_disk(&machine);
    fs::write(machine.project.join("go"), "").unwrap();
    assert_eq!(machine.done(waiting).await.unwrap_err().code, FailureCode::Failed);
    fs::remove_dir_all(&file).unwrap();
    assert!(machine.turn("three").await.contains("turn 2: three"));
    machine.stop_session().await;
}
