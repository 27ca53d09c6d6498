//! A server of the Model Context Protocol, made with its official SDK.

use std::{fs, path::PathBuf, process::Command};

/// One module for both ways; which one, and what is beside it, its arguments say.
pub const SERVER: &str = "
import http from 'node:http';
import { randomUUID } from 'node:crypto';
const [modules, address] = process.argv.slice(1);
const sdk = modules + '/@modelcontextprotocol/sdk/dist/esm/server/';
const { McpServer } = await import(sdk + 'mcp.js');
const { z } = await import(modules + '/zod/index.js');
const made = () => {
  const server = new McpServer({ name: 'notes', version: '1' });
  for (const name of ['read_note', 'delete_note'])
    server.registerTool(name, { description: 'Notes of ' + process.pid, inputSchema: { path: z.string() } },
      async ({ path }) => ({ content: [{ type: 'text', text: `${name} did ${path} as ${process.getuid()}` }] }));
  return server;
};
if (address) {
  const { StreamableHTTPServerTransport } = await import(sdk + 'streamableHttp.js');
  const sessions = {};
  http.createServer(async (request, response) => {
    let transport = sessions[request.headers['mcp-session-id']];
    if (!transport) {
      transport = new StreamableHTTPServerTransport({
        sessionIdGenerator: randomUUID, onsessioninitialized: (id) => { sessions[id] = transport; } });
      await made().connect(transport);
    }
    await transport.handleRequest(request, response);
  }).listen(80, address, () => console.log('ready'));
} else {
  const { StdioServerTransport } = await import(sdk + 'stdio.js');
  await made().connect(new StdioServerTransport());
}
";

/// The official SDK of MCP, as its registry has it.
pub fn sdk() -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("mcp-1.32.2");
    if !dir.join("installed").exists() {
        let npm = ["install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-save", "--prefix"];
        let package = "@modelcontextprotocol/sdk@1.32.2";
        let output = Command::new("npm").args(npm).arg(&dir).arg(package).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        fs::write(dir.join("installed"), "").unwrap();
    }
    dir
}
