//! A small disk that a story can fill up.
//!
//! It is a tmpfs in a mount namespace of the program's own, which needs no rights where user namespaces are allowed, and as root works
//! wherever mounting does. A helper in the same namespace fills and empties it; it ends with the program.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::process::Command;

use crate::eventually;

/// A disk for one program.
pub struct Disk {
    bytes: u64,
    /// Files here tell the helper what to do, and the story that it is done.
    orders: TempDir,
}

/// $1 the folder that becomes the disk, $2 bytes, $3 where the orders are; the rest is the program.
const SCRIPT: &str = r#"
set -e
folder=$1 bytes=$2 orders=$3
shift 3
cp -a "$folder/." "$orders/before"
mount -t tmpfs -o "size=$bytes,mode=700" tmpfs "$folder"
cp -a "$orders/before/." "$folder"
program=$$
help() {
    while kill -0 $program; do
        if [ -e "$orders/fill" ]; then
            cat /dev/zero >>"$folder/ballast" || : >"$orders/filled"
        else
            rm -f "$folder/ballast" "$orders/filled"
        fi
        sleep 0.05
    done
}
help </dev/null >/dev/null 2>&1 &
exec "$@"
"#;

impl Disk {
    pub(crate) fn new(bytes: u64) -> Self {
        let orders = TempDir::new().expect("a temporary folder");
        Self { bytes, orders }
    }

    /// The command that runs this program with `folder`, and what is in it, on the disk.
    pub(crate) fn holds(&self, folder: &Path, program: Command) -> Command {
        let program = program.as_std();
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c", SCRIPT, "sh"]);
        command.arg(folder).arg(self.bytes.to_string()).arg(self.orders.path());
        command.arg(program.get_program()).args(program.get_args());
        command.env_clear();
        command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
    }

    /// Fills it up, to the last byte, and whatever becomes free.
    pub async fn fill(&self) {
        std::fs::write(self.order("fill"), "").expect("a folder of ours");
        eventually("the disk to be full", async || {
            self.order("filled").exists().then_some(())
        })
        .await;
    }

    /// Frees what was filled.
    pub async fn clear(&self) {
        std::fs::remove_file(self.order("fill")).expect("a disk that was filled");
        eventually("the disk to be free", async || {
            (!self.order("filled").exists()).then_some(())
        })
        .await;
    }

    fn order(&self, name: &str) -> PathBuf {
        self.orders.path().join(name)
    }
}
