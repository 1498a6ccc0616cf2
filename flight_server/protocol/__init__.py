"""The Flight SQL wire contract: messages, typed commands, and the schemas of metadata results."""
