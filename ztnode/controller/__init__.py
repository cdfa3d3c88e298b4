"""The network controller: members, authorisation, managed addresses, signed configurations. Sans-IO."""
