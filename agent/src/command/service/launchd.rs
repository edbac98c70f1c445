//! The agent under launchd, on macOS.

use super::{LABEL, Service};

/// The launch agent.
pub(super) fn plist(service: &Service) -> String {
    let text = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let arguments: String = service
        .arguments()
        .iter()
        .map(|word| format!("    <string>{}</string>\n", text(word)))
        .collect();
    let glass = match service.allow_insecure_private {
        true => format!(
            "    <key>{}</key>\n    <string>1</string>\n",
            crate::transport::BREAK_GLASS
        ),
        false => String::new(),
    };
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n\
         <plist version=\"1.0\">\n\
         <dict>\n  \
         <key>Label</key>\n  <string>{LABEL}</string>\n  \
         <key>ProgramArguments</key>\n  <array>\n{arguments}  </array>\n  \
         <key>EnvironmentVariables</key>\n  <dict>\n    <key>PATH</key>\n    <string>{path}</string>\n{glass}  </dict>\n  \
         <key>RunAtLoad</key>\n  <true/>\n  \
         <key>KeepAlive</key>\n  <true/>\n  \
         <key>ThrottleInterval</key>\n  <integer>60</integer>\n  \
         <key>ProcessType</key>\n  <string>Background</string>\n\
         </dict>\n\
         </plist>\n",
        path = text(&service.path),
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Manager, testing::service};

    #[test]
    fn the_launch_agent_is_as_people_expect_it() {
        let mut service = service();
        service.allow_insecure_private = true;
        let expected = r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
  <key>Label</key>
  <string>com.open-ace.agent</string>
  <key>ProgramArguments</key>
  <array>
    <string>/opt/ace/ace-agent</string>
    <string>run</string>
    <string>--dir</string>
    <string>/home/alice/my 100% agent</string>
  </array>
  <key>EnvironmentVariables</key>
  <dict>
    <key>PATH</key>
    <string>/usr/local/bin:/usr/bin</string>
    <key>OPENACE_ALLOW_INSECURE_PRIVATE_WS</key>
    <string>1</string>
  </dict>
  <key>RunAtLoad</key>
  <true/>
  <key>KeepAlive</key>
  <true/>
  <key>ThrottleInterval</key>
  <integer>60</integer>
  <key>ProcessType</key>
  <string>Background</string>
</dict>
</plist>
"#;
        assert_eq!(Manager::Launchd.text(&service), expected);
        let file = Manager::Launchd.file(Path::new("/Users/alice"), Path::new("/d"));
        assert_eq!(
            file,
            Path::new("/Users/alice/Library/LaunchAgents/com.open-ace.agent.plist")
        );
    }
}
