"""Models as they are opened: ours from a folder or the Hub, teachers of any kind, and which photos they were fitted to."""
