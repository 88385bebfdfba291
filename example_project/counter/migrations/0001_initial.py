from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Counter",
            fields=[
                ("key", models.CharField(max_length=100, primary_key=True, serialize=False)),
                ("value", models.PositiveBigIntegerField(default=0)),
                ("version", models.PositiveBigIntegerField(default=0)),
            ],
        ),
    ]
