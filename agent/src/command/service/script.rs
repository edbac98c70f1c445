//! A start script, where nothing looks after services.

use super::Service;

/// The script.
pub(super) fn text(service: &Service) -> String {
    let word = |word: &String| format!("'{}'", word.replace('\'', r"'\''"));
    let command: Vec<_> = service.arguments().iter().map(word).collect();
    let glass = match service.allow_insecure_private {
        true => format!("export {}=1\n", crate::transport::BREAK_GLASS),
        false => String::new(),
    };
    format!(
        "#!/bin/sh\n# Starts the agent in the background; it writes agent.log in its directory.\n{glass}\
         nohup {} >/dev/null 2>&1 &\n",
        command.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::super::{Manager, testing::service};

    #[test]
    fn the_script_survives_quotes() {
        let mut service = service();
        service.dir = "/home/o'hara".into();
        let text = Manager::Script.text(&service);
        assert!(text.contains(r"'--dir' '/home/o'\''hara' >/dev/null"), "{text}");
    }
}
