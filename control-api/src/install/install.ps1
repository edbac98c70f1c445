# Installs ACE Gateway's agent on Windows:
#
#   $env:OPENACE_SERVER_URL = "https://ace.example.com"
#   $env:OPENACE_REGISTRATION_TOKEN = "TOKEN"
#   Invoke-WebRequest -UseBasicParsing -Uri "$env:OPENACE_SERVER_URL/api/remote/agent/install.ps1" | Invoke-Expression
#
# Nothing is asked. The token is spent by the last step before the service starts; where the server holds no agent for
# Windows, this says so and spends nothing.

function Install-AceAgent {
    $ErrorActionPreference = 'Stop'
    $ProgressPreference = 'SilentlyContinue'
    $unspent = 'The registration token is not spent: the same command can be run again.'

    $server = "$env:OPENACE_SERVER_URL".TrimEnd('/')
    if ($server -notmatch '^https?://.') {
        throw "Set `$env:OPENACE_SERVER_URL to the server's address, such as https://ace.example.com. $unspent"
    }
    $dir = $env:OPENACE_AGENT_DIR
    if (-not $dir) { $dir = Join-Path $HOME '.open-ace-agent' }
    $isRegistered = Test-Path (Join-Path $dir 'config.json')
    if (-not $env:OPENACE_REGISTRATION_TOKEN -and -not $isRegistered) {
        throw 'Set $env:OPENACE_REGISTRATION_TOKEN to a registration token; an admin makes one (machines, generate registration token).'
    }
    $machine = switch ("$env:PROCESSOR_ARCHITECTURE") {
        'AMD64' { 'x86_64' }
        'ARM64' { 'aarch64' }
        default { throw "There is no agent for the processor '$env:PROCESSOR_ARCHITECTURE'. $unspent" }
    }
    $files = "$server/api/remote/agent/files"
    [Net.ServicePointManager]::SecurityProtocol = [Net.ServicePointManager]::SecurityProtocol -bor [Net.SecurityProtocolType]::Tls12

    $isNew = -not (Test-Path $dir)
    New-Item -ItemType Directory -Force -Path $dir | Out-Null
    $work = Join-Path $dir ('.install.' + [Guid]::NewGuid().ToString('N'))
    New-Item -ItemType Directory -Path $work | Out-Null
    try {
        $sums = Join-Path $work 'SHA256SUMS'
        Invoke-WebRequest -UseBasicParsing -TimeoutSec 60 -Uri "$files/SHA256SUMS" -OutFile $sums
        $lines = @(Get-Content $sums)
        $wanted = "^([0-9a-f]{64})  (ace-agent-$machine-pc-windows-(?:msvc|gnu)(?:\.exe)?)$"
        $line = $lines | Where-Object { $_ -match $wanted } | Select-Object -First 1
        if (-not $line) {
            $held = ($lines | ForEach-Object { ($_ -split '  ', 2)[1] }) -join ', '
            throw "The server holds no agent for Windows ($machine). It holds: $held. $unspent"
        }
        $null = $line -match $wanted
        $expected = $Matches[1]
        $file = $Matches[2]
        $program = Join-Path $work 'ace-agent.exe'
        Write-Host "Downloading $file"
        Invoke-WebRequest -UseBasicParsing -TimeoutSec 600 -Uri "$files/$file" -OutFile $program
        $found = (Get-FileHash -Algorithm SHA256 -Path $program).Hash.ToLowerInvariant()
        if ($found -ne $expected) {
            throw "What was downloaded is damaged: its SHA-256 is $found, it should be $expected. $unspent"
        }
        $version = & $program --version
        if ($LASTEXITCODE -ne 0) { throw "The agent does not run on this machine. $unspent" }
        Write-Host "It is $version"
        if ($env:OPENACE_REGISTRATION_TOKEN) {
            & $program register --server $server --dir $dir
            if ($LASTEXITCODE -ne 0) {
                throw "The machine was not registered; the agent's message above says why, and whether the token is spent."
            }
        }
        $place = Join-Path $dir 'ace-agent.exe'
        Stop-Service -Name 'open-ace-agent' -ErrorAction SilentlyContinue
        Move-Item -Force -Path $program -Destination $place
        & $place install-service --dir $dir
        if ($LASTEXITCODE -ne 0) {
            throw "The machine is registered, but the service was not installed; '$place run --dir $dir' starts it by hand."
        }
        Write-Host "Done. The agent lives in $dir."
    }
    finally {
        Remove-Item -Recurse -Force -Path $work -ErrorAction SilentlyContinue
        if ($isNew -and -not (Get-ChildItem -Force -Path $dir)) { Remove-Item -Force -Path $dir }
    }
}

# The last line, so that a script that was cut on its way here does nothing.
Install-AceAgent
