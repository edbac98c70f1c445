use std::fs;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::files::own_name;
use crate::testing::{Client, World, config, master, worlds};
use crate::{App, ControlConfig, Trust};

/// Agents for two platforms in a folder, beside what is no agent, and the gateway's own.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("ace-agent-aarch64-apple-darwin", "for a Mac");
    write("ace-agent-aarch64-unknown-linux-musl", "for a router");
    write("gateway.toml", "vault.key = 'secret'");
    write("SHA256SUMS", "stale");
    write("ace-agent-bad name", "x");
    fs::create_dir(folder.path().join("ace-agent-folder")).unwrap();
    folder
}

pub(super) async fn app(world: &World, folder: Option<&Path>, program: Option<&Path>) -> App {
    let config = ControlConfig {
        agent_files: folder.map(Path::to_owned),
        agent_program: program.map(Path::to_owned),
        ..config()
    };
    let db = world.database.db.clone();
    App::open(db, &master(1), config, world.clock.clone()).await.unwrap()
}

async fn client(world: &World, folder: Option<&Path>, program: Option<&Path>) -> Client {
    let app = app(world, folder, program).await;
    world.nobody().through(app.router(Trust::Socket))
}

fn sum(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

const FILES: &str = "/api/remote/agent/files";

#[tokio::test]
async fn anybody_gets_the_scripts_and_a_copy_that_is_still_good_is_not_sent_again() {
    let world = &worlds().await[0];
    for name in ["install.sh", "install.ps1", "uninstall.sh"] {
        let path = format!("/api/remote/agent/{name}");
        let answer = world.nobody().get(&path).await.ok();
        assert!(answer.text.contains("ACE Gateway's agent"), "{name}");
        assert!(answer.header("content-type").starts_with("text/"));
        let tag = answer.header("etag").to_owned();
        let again = world.nobody().with("if-none-match", &tag).get(&path).await;
        assert_eq!((again.status.as_u16(), again.text.as_str()), (304, ""));
    }
}

#[tokio::test]
async fn the_checksums_name_every_agent_and_nothing_else() {
    let (folder, program) = (folder(), tempfile::NamedTempFile::new().unwrap());
    fs::write(program.path(), "the gateway itself").unwrap();
    let world = &worlds().await[0];
    let client = client(world, Some(folder.path()), Some(program.path())).await;
    let sums = client.get(&format!("{FILES}/SHA256SUMS")).await.ok().text;
    let mut expected = [
        format!("{}  ace-agent-aarch64-apple-darwin\n", sum("for a Mac")),
        format!("{}  ace-agent-aarch64-unknown-linux-musl\n", sum("for a router")),
        format!("{}  {}\n", sum("the gateway itself"), own_name()),
    ];
    expected.sort_by_key(|line| line[66..].to_owned());
    assert_eq!(sums, expected.concat());
    let own = client.get(&format!("{FILES}/{}", own_name())).await.ok();
    assert_eq!(
        (own.text.as_str(), own.header("content-length")),
        ("the gateway itself", "18")
    );
    assert_eq!(own.header("etag"), format!("\"{}\"", sum("the gateway itself")));
}

#[tokio::test]
async fn a_file_that_was_replaced_has_a_new_checksum() {
    let folder = folder();
    let world = &worlds().await[0];
    let client = client(world, Some(folder.path()), None).await;
    let path = format!("{FILES}/ace-agent-aarch64-apple-darwin");
    let before = client.get(&path).await.ok();
    fs::write(folder.path().join("ace-agent-aarch64-apple-darwin"), "a newer one").unwrap();
    let after = client
        .with("if-none-match", before.header("etag"))
        .get(&path)
        .await
        .ok();
    assert_eq!(
        (after.text.as_str(), after.header("etag")),
        ("a newer one", &*format!("\"{}\"", sum("a newer one")))
    );
}

#[tokio::test]
async fn what_is_not_held_is_said_with_what_is() {
    let folder = folder();
    let world = &worlds().await[0];
    let client = client(world, Some(folder.path()), None).await;
    let missing = client
        .get(&format!("{FILES}/ace-agent-x86_64-pc-windows-msvc.exe"))
        .await;
    let missing = missing.refused(404, "agent_file_not_found");
    assert_eq!(
        missing.json["hint"],
        "there are SHA256SUMS, ace-agent-aarch64-apple-darwin, ace-agent-aarch64-unknown-linux-musl"
    );
    let nothing = world.nobody().get(&format!("{FILES}/ace-agent-x")).await;
    let nothing = nothing.refused(404, "agent_file_not_found");
    assert_eq!(
        nothing.json["hint"],
        "no agents are held here; the operator sets [agents] files_dir"
    );
    assert_eq!(world.nobody().get(&format!("{FILES}/SHA256SUMS")).await.ok().text, "");
}

#[tokio::test]
async fn no_path_leads_out_of_the_folder() {
    let folder = folder();
    let world = &worlds().await[0];
    let client = client(world, Some(folder.path()), None).await;
    for path in [
        "gateway.toml",
        "..%2fgateway.toml",
        "..%2f..%2f..%2fetc%2fpasswd",
        "%2fetc%2fpasswd",
        "ace-agent-folder",
        "ace-agent-bad%20name",
        "ace-agent-..%2fgateway.toml",
        "ace-agent-aarch64-apple-darwin%00",
        ".",
    ] {
        let refused = client.get(&format!("{FILES}/{path}")).await;
        assert_eq!(refused.status.as_u16(), 404, "{path}: {refused}");
        assert!(!refused.text.contains("secret") && !refused.text.contains("root:"));
    }
}
